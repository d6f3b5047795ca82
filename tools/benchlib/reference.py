"""tda and tra in float64, by chunks of rows: what the kernels' results are compared with before their time counts.

Written from the formulas, apart from the kernels: o_i = sum_n c_n sum_j relu(s_nij - tau_i)^2 v_j with s the cosine of
rows of q_n and k_n, tau_i = beta sqrt(2 log(i + 1) / dim), c = (1, -lambda), j <= i.
"""
import numpy as np

from . import inputs


def norms(x):
    return ((x * x).sum(-1) ** 0.5)[:, None]


def through_norm(gradient, hat, norm):
    """The gradient of x / |x|, taken back to x."""
    return (gradient - (gradient * hat).sum(-1)[:, None] * hat) / norm


def head_reference(ops, q, k, v, grad_o, beta, lam, chunk):
    """Of one head, [length, dim] each: arrays by name, and (value, sum of the absolute terms) of dbeta and dlambda."""
    length, dim = v.shape
    scale = ops.f64(ops.array(inputs.thresholds(length, dim)))
    position = ops.array(np.arange(length))
    signs = (1.0, -lam)
    q, k, v, grad_o = [ops.f64(x) for x in q], [ops.f64(x) for x in k], ops.f64(v), ops.f64(grad_o)
    q_norm, k_norm = [norms(x) for x in q], [norms(x) for x in k]
    q_hat, k_hat = [x / n for x, n in zip(q, q_norm)], [x / n for x, n in zip(k, k_norm)]
    o, dv, dq, dk_hat = v * 0, v * 0, [x * 0 for x in q], [x * 0 for x in k]
    dbeta, dlambda = np.zeros(2), np.zeros(2)
    step = max(1, min(length, chunk // length))
    for first in range(0, length, step):
        rows, last = slice(first, first + step), min(length, first + step)
        visible = position[None, :last] <= position[rows, None]
        grad_a = grad_o[rows] @ v[:last].T
        for n in range(len(q)):
            x = q_hat[n][rows] @ k_hat[n][:last].T - beta * scale[rows, None]
            x = x * (visible & (x > 0))
            weight, slope = x * x, signs[n] * 2 * x * grad_a
            o[rows] += signs[n] * (weight @ v[:last])
            dv[:last] += signs[n] * (weight.T @ grad_o[rows])
            dq[n][rows] = through_norm(slope @ k_hat[n][:last], q_hat[n][rows], q_norm[n][rows])
            dk_hat[n][:last] += slope.T @ q_hat[n][rows]
            add_terms(dbeta, -slope * scale[rows, None])
            if n == 1:
                add_terms(dlambda, -weight * grad_a)
    results = {"o": o, "dv": dv}
    for n in range(len(q)):
        results[f"dq{n + 1}"] = dq[n]
        results[f"dk{n + 1}"] = through_norm(dk_hat[n], k_hat[n], k_norm[n])
    return results, dbeta, dlambda


def add_terms(total, terms):
    total += float(terms.sum()), float(abs(terms).sum())


def expected(ops, problem, views, heads, chunk=1 << 24):
    """{(batch entry, head): what head_reference gives}, for the given heads and the first `views` views."""
    return {(b, h): head_reference(ops, [x[b, h] for x in problem.q[:views]], [x[b, h] for x in problem.k[:views]],
                                   problem.v[b, h], problem.grad_o[b, h], float(problem.beta[h]), problem.lam, chunk)
            for h in heads for b in range(problem.shape[0])}


def errors(ops, wanted, results):
    """Relative 2-norms of the error of `results` (arrays [batch, heads, length, dim] by name; dbeta [heads], dlambda [1])
    over the heads of `wanted`, an expected(). Those of parameters are relative to the sum of their absolute terms, and
    dlambda takes all heads. Where the reference is 0 everywhere, the error is 0 or infinite."""
    wrong, size = {}, {}
    dbeta, dlambda = {}, np.zeros(2)

    def add(name, difference, of):
        wrong[name] = wrong.get(name, 0.0) + difference
        size[name] = size.get(name, 0.0) + of

    for (b, h), (arrays, head_dbeta, head_dlambda) in wanted.items():
        dbeta[h] = dbeta.get(h, 0) + head_dbeta
        dlambda = dlambda + head_dlambda
        for name, array in arrays.items():
            difference = ops.f64(results[name][b, h]) - array
            add(name, float((difference * difference).sum()), float((array * array).sum()))
    if "dbeta" in results:
        for h, (value, terms) in dbeta.items():
            add("dbeta", (float(results["dbeta"][h]) - value) ** 2, terms ** 2)
    if "dlambda" in results and len(dbeta) == results["o"].shape[1]:
        add("dlambda", (float(results["dlambda"][0]) - dlambda[0]) ** 2, dlambda[1] ** 2)
    return {name: relative(wrong[name], size[name]) for name in wrong}


def relative(wrong, size):
    if size == 0:
        return 0.0 if wrong == 0 else float("inf")
    return (wrong / size) ** 0.5


def is_wrong(found, forward_bound, backward_bound):
    """Whether an error of errors() passes its bound; NaN does."""
    return not all(error <= (forward_bound if name == "o" else backward_bound) for name, error in found.items())
