"""The formulas of a spec in plain PyTorch, to compare with and to understand: O(length^2) memory, differentiable any number
of times. Nothing is shared with the kernels but the expressions of the manifest, which docs/manifest.md describes."""
import torch

from . import _lib, program
from ._torch import Attention

_Shapes = _lib.ParamShape


def reference(spec, *, dtype=torch.float64, **options):
    """spec: an Attention, or whatever tda.compile takes, with its options. The result is called as an Attention is; it
    computes in dtype, which its results have."""
    return Reference(spec.program if isinstance(spec, Attention) else program(spec, **options), dtype)


# ---- operations of compiler/expr_ops.def, with its derivatives at kinks ----

def _sqrt(a):
    """Its derivative at 0 counts as 0."""
    zero = a == 0
    return torch.where(zero, a.detach(), torch.where(zero, torch.ones_like(a), a).sqrt())


def _power(a, b):
    """Where a is 0 the derivative by a counts as 0 for exponents below 1."""
    kink = (a == 0) & (b < 1)
    return torch.where(kink, a.detach() ** b.detach(), torch.where(kink, torch.ones_like(a), a) ** b)


def _passing_nan(chosen, *arguments):
    """chosen, and NaN where an argument is."""
    nan = torch.zeros((), dtype=torch.bool, device=chosen.device)
    for x in arguments:
        nan = nan | x.isnan()
    return torch.where(nan, torch.full_like(chosen, float("nan")), chosen)


_OPS = {
    "+": (2, torch.add), "-": (2, torch.sub), "*": (2, torch.mul), "/": (2, torch.div), "neg": (1, torch.neg),
    "^": (2, _power),
    "sqrt": (1, _sqrt), "log": (1, torch.log), "exp": (1, torch.exp), "exp2": (1, torch.exp2), "tanh": (1, torch.tanh),
    "sigmoid": (1, torch.sigmoid), "abs": (1, torch.abs), "floor": (1, torch.floor), "relu": (1, torch.relu),
    # ties go to the first
    "min": (2, lambda a, b: _passing_nan(torch.where(b < a, b, a), a, b)),
    "max": (2, lambda a, b: _passing_nan(torch.where(b > a, b, a), a, b)),
    "clamp": (3, lambda x, lo, hi: _passing_nan(torch.where(x < lo, lo, torch.where(x > hi, hi, x)), x, lo, hi)),
    "lt": (2, torch.lt), "le": (2, torch.le), "gt": (2, torch.gt), "ge": (2, torch.ge), "eq": (2, torch.eq),
    "ne": (2, torch.ne),
    "where": (3, lambda condition, a, b: torch.where(condition != 0, a, b)),
}


def evaluate(words, values, like):
    """A postfix expression. values: tensors by variable and by $NAME, that broadcast; like: one of the dtype and device."""
    stack = []
    for word in words:
        if word in _OPS:
            arity, function = _OPS[word]
            arguments = stack[len(stack) - arity:]
            stack[len(stack) - arity:] = [function(*arguments)]
        else:
            stack.append(values[word] if word in values else like.new_tensor(float(word)))
    return stack.pop()


class Reference:
    """Called as an Attention is."""

    def __init__(self, program, dtype):
        self.program, self.dtype = program, dtype
        self.manifest = program.manifest

    def __call__(self, q, k, v, *, layer=0, layout="bhtd", **params):
        if layout == "bthd":
            q, k = ([x.transpose(1, 2) for x in _listed(xs)] for xs in (q, k))
            return self(q, k, v.transpose(1, 2), layer=layer, **params).transpose(1, 2)
        v = v.to(self.dtype)
        matrix = self.matrix(q, k, layer=layer, **params)
        with torch.autocast(v.device.type, enabled=False):
            return self.normed(matrix @ v.repeat_interleave(matrix.shape[1] // v.shape[1], 1), params)

    def matrix(self, q, k, *, layer=0, **params):
        """What v is multiplied by, all views combined: [batch, heads, q_len, k_len]."""
        q, k = ([x.to(self.dtype) for x in _listed(xs)] for xs in (q, k))
        k = [x.repeat_interleave(q[0].shape[1] // x.shape[1], 1) for x in k]
        values = self.values(q[0], k[0], layer, params)
        visible = self.visible(values["i"], values["j"])
        # a row that sees no key has no threshold
        values["i"] = torch.where(visible.any(-1, keepdim=True), values["i"], torch.zeros_like(values["i"]))
        total = 0
        for view in range(self.program.views):
            values["view"] = q[0].new_tensor(float(view + 1))
            coefficient = evaluate(self.manifest["combine"][view][1:], values, q[0])
            with torch.autocast(q[0].device.type, enabled=False):      # which would round the factors of products
                total = total + coefficient * self.weights(q[view], k[view], visible, values)
        return total

    def values(self, q, k, layer, params):
        """What formulas read, each to broadcast over [batch, heads, q_len, k_len]."""
        heads, q_len, k_len = q.shape[1], q.shape[2], k.shape[2]

        def numbers(*range_):
            return torch.arange(*range_, dtype=self.dtype, device=q.device)

        values = {"i": numbers(k_len - q_len, k_len)[:, None], "j": numbers(k_len), "head": numbers(heads)[:, None, None]}
        values.update({name: q.new_tensor(float(x)) for name, x in (("layer", layer), ("q_len", q_len), ("k_len", k_len))})
        given = {self.program.param_index[name]: x for name, x in params.items()}
        for n, param in enumerate(self.program.params):
            x = torch.as_tensor(given.get(n, torch.tensor(param.init, dtype=torch.float32)), device=q.device).to(self.dtype)
            if param.shape == _Shapes.PER_CHANNEL:
                values["$" + param.name] = x
                continue
            each = heads if param.shape in (_Shapes.PER_HEAD, _Shapes.PER_LAYER_HEAD) else 1
            if n not in given:
                x = x.expand(each)
            elif param.shape in (_Shapes.PER_LAYER, _Shapes.PER_LAYER_HEAD):
                x = x.reshape(-1, each)[layer]
            values["$" + param.name] = x.expand(each).reshape(each, 1, 1) if x.dim() == 0 else x.reshape(each, 1, 1)
        return values

    def visible(self, i, j):
        mask = torch.ones(i.shape[0], j.shape[0], dtype=torch.bool, device=i.device)
        for words in self.manifest["mask"]:
            mask = mask & (j <= i if words[0] == "causal" else (i - j).abs() < int(words[1]))
        return mask

    def weights(self, q, k, visible, values):
        if self.program.l2_normalized:
            q, k = _unit(q), _unit(k)
        # masked scores may be anything: they are left out before the formulas, whose derivatives might not be finite there
        s = torch.where(visible, q @ k.transpose(-1, -2), q.new_zeros(()))
        inputs = {**values, "s": s}
        inputs["s"] = evaluate(self.manifest["score"][0], inputs, s)
        row = {name: x for name, x in values.items() if name != "j"}
        inputs["tau"] = evaluate(self.manifest["threshold"][0], row, s)
        return torch.where(visible, evaluate(self.manifest["weight"][0], inputs, s), s.new_zeros(()))

    def normed(self, o, params):
        if not self.program.rms_norm:
            return o
        eps, gain = self.manifest["rms_norm"][0]
        square = o.square().mean(-1, keepdim=True) + float(eps)
        o = o * torch.where(square == 0, square, torch.where(square == 0, torch.ones_like(square), square).rsqrt())
        if gain == "-":
            return o
        index = self.program.param_index[gain]
        given = [x for name, x in params.items() if self.program.param_index[name] == index]
        return o * (torch.as_tensor(given[0]).to(o) if given else self.program.params[index].init)


def _listed(x):
    return [x] if isinstance(x, torch.Tensor) else list(x)


def _unit(x):
    """Unit rows; rows of zeros stay, with gradient 0."""
    square = x.square().sum(-1, keepdim=True)
    zero = square == 0
    return x * torch.where(zero, torch.zeros_like(square), torch.where(zero, torch.ones_like(square), square).rsqrt())
