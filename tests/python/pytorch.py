#!/usr/bin/env python3
"""pytorch.py ROOT TDAGEN LIBRARY: the package tda on PyTorch's CPU tensors, by the f64 reference instead of kernels.

Everything else is the same on a GPU: operators, gradients, graphs, layouts, refusals.
"""
import copy
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import threading
import warnings

import torch

ROOT, TDAGEN, LIBRARY = sys.argv[1:4]
scratch = tempfile.TemporaryDirectory()
os.environ.update(TDA_LIBRARY=LIBRARY, TDAGEN=TDAGEN, TDA_CACHE_DIR=f"{scratch.name}/cache",
                  TORCHINDUCTOR_CACHE_DIR=f"{scratch.name}/inductor")
sys.path.insert(0, f"{ROOT}/runtime/python")
import tda  # noqa: E402
import tda.nn  # noqa: E402
from tda import _torch  # noqa: E402
from testing import expect, run_tests  # noqa: E402

SPECS = sorted(path.stem for path in pathlib.Path(ROOT, "dsl/specs").glob("*.lua"))
LAYERS = 3


class Case:
    """Random inputs of an attention; heads = 4, two of k and v."""

    def __init__(self, attn, q_len=40, k_len=48, bthd=False, seed=1):
        torch.manual_seed(seed)
        self.attn = attn

        def tensor(heads, length, dim):
            sizes = (2, length, heads, dim) if bthd else (2, heads, length, dim)
            x = torch.randn(sizes).to(attn.dtype)
            return (x.transpose(1, 2) if bthd else x).requires_grad_()

        self.q = [tensor(4, q_len, attn.head_dim) for _ in range(attn.views)]
        self.k = [tensor(2, k_len, attn.head_dim) for _ in range(attn.views)]
        self.v = tensor(2, k_len, attn.value_dim)
        self.params = {p.name: (0.3 + 0.3 * torch.rand(attn.program.param_length(p, 4, LAYERS))).requires_grad_()
                       for p in attn.params}
        self.layer = 1 if any("LAYER" in p.shape.name for p in attn.params) else 0
        self.grad_o = torch.randn(2, 4, q_len, attn.value_dim).to(attn.dtype)

    def inputs(self):
        return [*self.q, *self.k, self.v, *self.params.values()]

    def run(self, attn=None):
        return (attn or self.attn)(q=self.q, k=self.k, v=self.v, layer=self.layer, **self.params)

    def results(self, attn=None):
        """[o, gradients of all inputs]"""
        o = self.run(attn)
        return [o.detach(), *torch.autograd.grad(o, self.inputs(), self.grad_o.to(o.dtype))]


def small(spec="tda", **settings):
    return tda.compile(spec, **{"dtype": "f32", "head_dim": 16, **settings})


def relative(x, wanted):
    return ((x.double() - wanted.double()).norm() / wanted.double().norm()).item()


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


def expect_error(kind, words, call):
    try:
        call()
        expect(False, f"{words}: not refused")
    except kind as error:
        expect(words in str(error), f"{words}: the message is {error}")


# ---- results ----

def test_specs():
    """Outputs and all gradients against the formulas in plain PyTorch."""
    for spec in SPECS:
        case = Case(small(spec))
        for n, (got, wanted) in enumerate(zip(case.results(), case.results(tda.reference(case.attn)))):
            error = relative(got, wanted)
            expect(got.shape == wanted.shape and error < 1e-6, f"{spec}: result {n} is off by {error}")
    for dtype in ("bf16", "f16"):
        case = Case(small(dtype=dtype))
        bound = 5e-3 if dtype == "bf16" else 1e-3
        for got, wanted in zip(case.results(), case.results(tda.reference(case.attn))):
            expect(relative(got, wanted) < bound, f"{dtype}: off by {relative(got, wanted)}")


def test_reference():
    """The plain formulas against differences, kinks among them; and empty rows."""
    formulas = tda.reference("""return attention { name = "kinks", head_dim = 8, params = { a = learned(scalar, 0.5) },
        threshold = function(c) return c.a * sqrt(max(c.i - 1, 0)) end,
        weight = function(s, tau) return relu(s - tau) ^ 0.5 * min(s, 1) + clamp(s, -0.5, 0.5) end, mask = causal() }
        """)
    torch.manual_seed(2)
    q, k, v = (torch.randn(1, 1, 5, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    a = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    expect(torch.autograd.gradcheck(lambda *x: formulas(x[0], x[1], x[2], a=x[3]), (q, k, v, a)), "its gradients")
    zeros = torch.zeros(1, 1, 5, 8, requires_grad=True)
    formulas(zeros, k, v, a=a).sum().backward()
    expect(zeros.grad.abs().max() == 0 and a.grad.isfinite(), "the gradient of rows of zeros")
    case = Case(small(), q_len=48, k_len=40)
    results = case.results(tda.reference(case.attn))
    expect(all(x.isfinite().all() for x in results), "rows that see no key give NaN")
    expect(results[0][:, :, :8].abs().max() == 0, "rows that see no key are not 0")
    expect(same([x.to(y.dtype) for x, y in zip(results, case.results())], case.results()), "rows before the first key")


def test_layouts():
    """Memory is laid out as the inputs'; the views are taken without copies; layout="bthd"."""
    attn = small()
    plain, swapped = Case(attn), Case(attn, bthd=True)
    for got, like in zip(swapped.results(), [swapped.q[0], *swapped.inputs()]):
        expect(got.stride() == like.stride(), f"strides are {got.stride()}, not {like.stride()}")
    o = plain.run()
    expect(o.stride() == plain.q[0].stride(), "packed heads")
    rows = [x.detach().transpose(1, 2) for x in (*plain.q, *plain.k, plain.v)]
    other = attn(q=rows[:2], k=rows[2:4], v=rows[4], layout="bthd", **plain.params)
    expect(torch.equal(other.transpose(1, 2), o), 'layout="bthd"')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed = torch.randn(2, 48, 5, 4, 16)                  # q1, k1, q2, k2, v in one tensor
        q1, k1, q2, k2, v = packed.permute(2, 0, 3, 1, 4)
        one = attn(q=[q1, q2], k=[k1, k2[:1].expand_as(k2)], v=v)
        expect(torch.equal(one, attn(q=[q1.clone(), q2.clone()], k=[k1.clone(), k2[:1].repeat(2, 1, 1, 1)], v=v.clone())),
               "views of a packed tensor")


def test_copies():
    """Tensors that libtda can't read are copied, which is said once; results and gradients are the same."""
    attn = small()
    case = Case(attn)
    wanted = case.results()
    odd = Case(attn)
    odd.q[0] = odd.q[0].detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    storage = torch.zeros(odd.v.numel() + 1)
    odd.v = storage[1:].view(odd.v.shape).copy_(odd.v.detach()).requires_grad_()
    _torch._warned.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = odd.results()
        odd.results()
    said = [str(w.message) for w in caught if "copied" in str(w.message)]
    expect(same(got, wanted), "results of copies")
    expect(len(said) == 2 and "q[0]" in said[0] and "v is" in said[1], f"said {said}")


def test_parameters():
    attn = small("tda_layers")
    case = Case(attn)
    beta, lam = case.params["beta"], case.params["lambda"]

    def run(**params):
        return attn(q=case.q, k=case.k, v=case.v, **params)

    o = run(beta=beta, lam=lam, layer=2)
    expect(torch.equal(o, run(layer=2, **{"beta": beta, "lambda": lam})), "lam stands for lambda")
    expect(torch.equal(o, run(beta=beta[8:].repeat(3), lam=lam[2:].repeat(3), layer=2)), "only the layer's entries count")
    expect(not torch.equal(o, run(beta=beta, lam=lam, layer=1)), "the layer does not count")
    expect(torch.equal(run(layer=2), run(beta=1, lam=0.5, layer=2)), "what is left out has its initial value")
    grads = torch.autograd.grad(o, [beta, lam], case.grad_o)
    expect(grads[0][:8].abs().max() == 0 and grads[1][:2].abs().max() == 0 and grads[1][2] != 0, "gradients of other layers")
    half = lam.detach().half().requires_grad_()
    torch.autograd.grad(run(beta=beta, lam=half, layer=2), half, case.grad_o)
    some, = torch.autograd.grad(run(beta=beta.detach(), lam=lam, layer=2), lam, case.grad_o)
    expect(torch.equal(some, grads[1]), "the gradient of one parameter alone")
    expect_error(TypeError, "gamma is no parameter of tda_layers; its parameters: beta, lambda", lambda: run(gamma=1))
    expect_error(TypeError, "given twice", lambda: run(lam=lam, lambda_=lam))
    expect_error(ValueError, "layer is 3: it must be in 0..2", lambda: run(beta=beta, layer=3))
    expect_error(ValueError, "beta has 11 entries", lambda: run(beta=beta[1:]))


def test_target():
    asked = torch.cuda.is_available, torch.cuda.get_device_capability
    try:
        for capability, target in ((None, "sm_80"), ((8, 0), "sm_80"), ((9, 0), "sm_90a"), ((10, 0), "sm_80")):
            torch.cuda.is_available = lambda: capability is not None
            torch.cuda.get_device_capability = lambda: capability
            expect(small().program.target == target, f"a GPU of compute capability {capability} does not get {target}")
            expect(small(target="sm_80").program.target == "sm_80", f"capability {capability}: not what was asked for")
    finally:
        torch.cuda.is_available, torch.cuda.get_device_capability = asked


def test_refusals():
    attn = small()
    case = Case(attn)
    q, k, v = case.q, case.k, case.v
    for words, arguments in (("q and k are 1 and 2 tensors", (q[:1], k, v)),
                             ("q[1] is torch.float64", ([q[0], q[1].double()], k, v)),
                             ("k[0] has dim 8", (q, [k[0][..., :8], k[1]], v)),
                             ("k[1] has length 40", (q, [k[0], k[1][:, :, :40]], v)), ("has 3 dimensions", (q, k, v[0])),
                             ("that must divide the 3 of q", ([x[:, :3] for x in q], k, v))):
        expect_error(ValueError, words, lambda: attn(*arguments))
    compiled = torch.compile(attn, backend="eager", fullgraph=True)
    expect_error(Exception, "q[1] is torch.float64", lambda: compiled([q[0], q[1].double()], k, v))
    expect_error(ValueError, "all must be on one device", lambda: attn(q=q, k=k, v=v.to("meta")))
    expect_error(ValueError, 'layout is "bhtd" or "bthd"', lambda: attn(q=q, k=k, v=v, layout="thd"))
    expect_error(tda.CompileError, "the spec has no option 'heads'", lambda: small(heads=3))
    expect_error(RuntimeError, "is not loaded here", lambda: torch.ops.tda.forward(q, k, v, [], "unknown", 0, 0))


# ---- calls that are like earlier ones ----

def counted(call):
    """(what it returns, whether it looked at its tensors)"""
    looks, usual = [], _torch._plan_of

    def plan_of(*arguments):
        looks.append(arguments)
        return usual(*arguments)

    _torch._plan_of = plan_of
    try:
        return call(), bool(looks)
    finally:
        _torch._plan_of = usual


def test_known_calls():
    """The shorter way gives the same results, and is taken by calls that are like earlier ones, and by no others."""
    case = Case(small("tda_layers"))
    wanted, looked = counted(case.results)
    expect(looked, "the first call")
    for way in ("again", "in another thread"):
        got = []
        thread = threading.Thread(target=lambda: got.append(counted(case.results)))
        thread.start() if way != "again" else got.append(counted(case.results))
        if way != "again":
            thread.join()
        expect(same(got[0][0], wanted) and not got[0][1], f"{way}: another result, or another way")
    q, k, v, (beta, lam) = case.q, case.k, case.v, case.params.values()
    plain = [x.detach() for x in case.inputs()]

    def other(what, known, **arguments):
        """A call with some arguments changed, twice: it is new, then known, or never known."""
        arguments = {"q": q, "k": k, "v": v, "beta": beta, "lam": lam, "layer": 1, **arguments}
        (o, looked), (again, looked_again) = (counted(lambda: case.attn(**arguments)) for _ in range(2))
        plainly = tda.reference(case.attn)(**{name: x for name, x in arguments.items() if x is not None})
        expect(torch.equal(o, again) and relative(o, plainly) < 1e-6, f"{what}: results")
        expect(looked and looked_again != known, f"{what}: {looked}, {looked_again}")
        expect(o.requires_grad == plainly.requires_grad, f"{what}: requires_grad is {o.requires_grad}")

    other("another layer", True, layer=2)
    other("parameters in another order", True, **dict(reversed(list({"beta": beta, "lam": lam, "layer": 1}.items()))))
    other("tuples", True, q=tuple(q), layer=0)
    other("a parameter that is None", False, lam=None)
    numbers = [case.attn(q=q, k=k, v=v, beta=0.5, lam=x, layer=1) for x in (0.25, 0.25, 0.75)]
    expect(torch.equal(*numbers[:2]) and not torch.equal(*numbers[1:]), "numbers")
    other("the same tensor twice", False, q=[q[0], q[0]])
    other("no gradients", True, **dict(zip(("q", "k", "v", "beta", "lam"), (plain[:2], plain[2:4], *plain[4:]))))
    other("gradients of one alone", True, q=plain[:2], k=plain[2:4], v=plain[4], beta=plain[5])
    other("other strides", True, v=v.detach().transpose(1, 2).contiguous().transpose(1, 2))
    other("other lengths", True, q=[x[:, :, :24] for x in q])
    other("expanded", True, v=v[:1].expand(2, -1, -1, -1))
    other("copied", False, v=v.detach().transpose(2, 3).contiguous().transpose(2, 3))
    expect_error(ValueError, "q[0] is torch.float64", lambda: case.attn(q=[x.double() for x in q], k=k, v=v))
    square = small(head_dim=16)
    x = [torch.randn(1, 2, 8, 16) for _ in range(5)]
    square(q=x[:2], k=x[2:4], v=x[4])
    expect_error(ValueError, "q and k are 1 and 3 tensors", lambda: square(q=x[:1], k=x[1:4], v=x[4]))
    with torch.no_grad():
        expect(not case.run().requires_grad, "no_grad")
    with torch.inference_mode():
        expect(case.run().is_inference(), "inference mode")
    expect(counted(case.run)[0].grad_fn is not None, "after those modes")


class Seen(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ops = []

    def __torch_dispatch__(self, op, types, arguments=(), keywords=None):
        self.ops.append(op)
        return op(*arguments, **(keywords or {}))


def test_known_to_none():
    """Modes, transforms and subclasses see the operators, whatever calls there were before."""
    case = Case(small())
    wanted = [case.results() for _ in range(2)][1]
    with Seen() as seen:
        o = case.run()
    expect(torch.ops.tda.forward.default in seen.ops and torch.equal(o, wanted[0]), "a mode does not see the operator")
    q, k, v = ([x.detach() for x in xs] for xs in (case.q, case.k, [case.v]))
    params = {name: x.detach() for name, x in case.params.items()}

    def call(x):
        return (case.attn(q=[x, q[1]], k=k, v=v[0], **params) * case.grad_o).sum()

    for _ in range(2):
        call(q[0].requires_grad_())
    left = []
    try:
        got = torch.func.grad(lambda x: left.append(x) or call(x))(q[0].detach())
        expect(relative(got, wanted[1]) < 1e-6, "torch.func.grad")
    except RuntimeError as error:
        expect("setup_context" in str(error) or "functorch" in str(error), f"torch.func.grad: {error}")
    expect(torch.equal(case.attn(q=[left[0], q[1]], k=k, v=v[0], **params), wanted[0]), "what a transform has left behind")
    fake = torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        expect(isinstance(case.run(), torch._subclasses.FakeTensor), "fake tensors")

    class Sub(torch.Tensor):
        pass

    sub = case.attn(q=[q[0].detach().as_subclass(Sub), q[1]], k=k, v=v[0], **params)
    expect(torch.equal(torch.Tensor(sub), wanted[0]), "a subclass")
    misaligned = torch.zeros(v[0].numel() + 1)[1:].view(v[0].shape).copy_(v[0])
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        o = case.attn(q=q, k=k, v=misaligned, **params)
    expect(torch.equal(o, wanted[0]), "an address that is not aligned")


def test_without_guards():
    """A PyTorch without the comparison: every call looks at its tensors."""
    case = Case(small())
    wanted = case.results()
    usual, _torch._comparison = _torch._comparison, None
    try:
        other = Case(tda.compile("tda", dtype="f32", head_dim=16))
        got = [counted(other.results) for _ in range(2)]
    finally:
        _torch._comparison = usual
    expect(all(same(results, wanted) and looked for results, looked in got), "without the comparison")
    expect(usual is not None, "this PyTorch has no such guards: calls take longer")


# ---- PyTorch's own machinery ----

def test_operators():
    """torch.library's own check: schema, gradients, fake kernels, tracing with static and symbolic sizes."""
    for spec, wanted in (("tda", 3), ("tda_rmsnorm", 5)):
        case = Case(small(spec))
        params = list(case.params.values())
        arguments = (case.q, case.k, case.v, params, case.attn.key, (1 << len(params)) - 1, 0)
        found = torch.library.opcheck(torch.ops.tda.forward.default, arguments, raise_exception=False)
        expect(set(found.values()) == {"SUCCESS"}, f"{spec}: forward {found}")
        detached = [[x.detach() for x in xs] for xs in (case.q, case.k, [case.v], params)]
        saved = torch.ops.tda.forward(*arguments)[1]
        arguments = (case.grad_o, detached[0], detached[1], detached[2][0], detached[3], saved, *arguments[4:], wanted)
        found = torch.library.opcheck(torch.ops.tda.backward.default, arguments, raise_exception=False)
        expect(set(found.values()) == {"SUCCESS"}, f"{spec}: backward {found}")


def test_symbolic_sizes():
    """The fake kernel's size of `saved` on a GPU is what libtda says, for numbers and for symbols."""
    from torch._dynamo.source import ConstantSource
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
    from tda._program import Shape
    for spec in SPECS:
        program = small(spec).program
        for sizes in ((1, 2, 2, 64, 64), (2, 4, 1, 1, 130), (0, 1, 1, 100, 3)):
            shape = Shape(*sizes, 0, 1)
            expect(program.saved_bytes(shape) == program.sizes(shape).saved, f"{spec}: saved bytes of {sizes}")
    environment, real = ShapeEnv(), {"q_len": torch.empty(1, 1, 600, 1), "k_len": torch.empty(1, 1, 700, 1)}
    with FakeTensorMode(shape_env=environment) as mode:
        case = Case(small())
        o = case.run()
        expect(o.shape == case.q[0].shape and o.requires_grad, "fake tensors")
        dynamic = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.STATIC] * 2 + [DimDynamic.DYNAMIC, DimDynamic.STATIC])
        q_len, k_len = (mode.from_tensor(x, symbolic_context=dynamic, source=ConstantSource(name)).shape[2]
                        for name, x in real.items())
        q, k = (torch.empty(2, heads, length, 16, device="cuda:0") for heads, length in ((4, q_len), (2, k_len)))
        o, saved = torch.ops.tda.forward([q, q], [k, k], k, [], case.attn.key, 0, 0)
        wanted = case.attn.program.sizes(Shape(2, 4, 2, 600, 700, 0, 1)).saved
        expect(str(o.shape[2]) == str(q_len) and isinstance(saved.shape[0], torch.SymInt) and saved.shape[0].node.hint == wanted,
               f"saved of any length: {saved.shape}")
        expect(not environment.guards, f"lengths are held to {environment.guards}")


def test_compile():
    """Whole graphs, whose results are eager's bit for bit; lengths may change without compiling anew."""
    attn = small("tda_layers")

    def block(q, k, v, beta, lam, layer):
        o = attn(q=[x * 2 for x in q], k=k, v=v, beta=beta, lam=lam, layer=layer)
        return o.transpose(1, 2).reshape(o.shape[0], o.shape[2], -1)

    for backend in ("aot_eager", "inductor"):
        torch._dynamo.reset()
        counted = torch._dynamo.testing.CompileCounterWithBackend(backend)
        compiled = torch.compile(block, backend=counted, fullgraph=True, dynamic=True)
        for q_len, bthd in ((40, False), (33, False), (48, False)):
            case = Case(attn, q_len=q_len, bthd=bthd)
            results = []
            for function in (block, compiled):
                o = function(case.q, case.k, case.v, *case.params.values(), 1)
                results.append([o.detach(), *torch.autograd.grad(o.sum(), case.inputs())])
            expect(same(*results), f"{backend}, length {q_len}: not the bits of eager")
        expect(counted.frame_count == 1, f"{backend}: compiled {counted.frame_count} times")


def test_checkpoint():
    from torch.utils.checkpoint import (CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts)
    case = Case(small())
    wanted = case.results()

    def keep_ours(context, op, *arguments, **keywords):
        return CheckpointPolicy.MUST_SAVE if op is torch.ops.tda.forward.default else CheckpointPolicy.PREFER_RECOMPUTE

    for how in ({"use_reentrant": False}, {"use_reentrant": True},
                {"use_reentrant": False, "context_fn": lambda: create_selective_checkpoint_contexts(keep_ours)}):
        def attn(q, k, v, layer, **params):
            names = list(params)
            return checkpoint(
                lambda q1, q2, k1, k2, v, *rest: case.attn(q=[q1, q2], k=[k1, k2], v=v, **dict(zip(names, rest))),
                *q, *k, v, *params.values(), **how)
        if how["use_reentrant"]:
            for x in case.inputs():
                x.grad = None
            o = case.run(attn)
            o.backward(case.grad_o)
            got = [o.detach(), *(x.grad for x in case.inputs())]
        else:
            got = case.results(attn)
        expect(same(got, wanted), f"checkpoint with {sorted(how)}")


def test_moved():
    """Saved tensors that come back elsewhere, and without the gaps that they had."""
    attn = small()
    q1, k1, q2, k2, v = torch.randn(2, 48, 5, 2, 16, requires_grad=True).permute(2, 0, 3, 1, 4)
    results = []
    for pack in (lambda x: x, lambda x: x.contiguous().clone()):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            o = attn(q=[q1, q2], k=[k1, k2], v=v)
        results.append(torch.autograd.grad(o.sum(), [q1, k1, q2, k2, v]))
    expect(same(*results), "gradients with hooks that pack")


def test_autocast():
    case = Case(small(dtype="bf16"))
    wanted = case.results()
    wide = Case(case.attn)
    for name in ("q", "k"):
        setattr(wide, name, [x.detach().float().requires_grad_() for x in getattr(wide, name)])
    wide.v = wide.v.detach().float().requires_grad_()
    expect_error(ValueError, "compiled for bf16", wide.run)
    formulas = tda.reference(case.attn, dtype=torch.float32)
    plain = wide.run(formulas)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expect(torch.equal(wide.run(formulas), plain), "the reference under autocast")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = wide.results()
        compiled = wide.results(torch.compile(case.attn, backend="aot_eager", fullgraph=True))
    expect(same([x.to(y.dtype) for x, y in zip(got, wanted)], wanted), "autocast")
    expect(got[0].dtype == torch.bfloat16 and got[1].dtype == torch.float32, "dtypes under autocast")
    expect(same(compiled, got), "autocast in a compiled graph")
    attn = small(dtype="f16")
    beta = torch.nn.Parameter(torch.full((4,), 0.5))
    optimizer, scaler = torch.optim.SGD([beta], lr=1.0), torch.amp.GradScaler("cpu", init_scale=64.0)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = attn(q=wide.q, k=wide.k, v=wide.v, beta=beta).float().square().mean()
    grad, = torch.autograd.grad(loss, beta, retain_graph=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    expect(relative(0.5 - beta.detach(), grad) < 1e-2 and scaler.get_scale() == 64, "a step with scaled gradients")


def test_second_derivative():
    case = Case(small())

    def operator(q, k, v, layer, **params):
        return torch.ops.tda.forward(q, k, v, list(params.values()), case.attn.key, 3, layer)[0]

    for attn in (case.attn, operator):
        first = torch.autograd.grad(case.run(attn), case.q, case.grad_o, create_graph=True)
        expect(torch.equal(first[0], case.results()[1]), "first derivatives with create_graph")
        expect_error(RuntimeError, "second derivatives are not available", lambda: first[0].sum().backward())


def test_forward_mode():
    case = Case(small())
    q, k, v = ([x.detach() for x in xs] for xs in (case.q, case.k, [case.v]))

    def call(x):
        return case.attn(q=[x, q[1]], k=k, v=v[0])

    expect_error(NotImplementedError, "forward-mode derivatives", lambda: torch.func.jvp(call, (q[0],), (q[0],)))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(q[0], q[0])
        expect_error(NotImplementedError, "forward-mode derivatives", lambda: call(dual))
        expect(torch.equal(call(q[0]), case.attn(q=q, k=k, v=v[0])), "a call without tangents")


class Block(torch.nn.Module):
    def __init__(self, attn):
        super().__init__()
        self.attn, self.beta = attn, torch.nn.Parameter(torch.full((4,), 0.5))

    def forward(self, q1, q2, k1, k2, v):
        return self.attn(q=[q1, q2], k=[k1, k2], v=v, beta=self.beta)


def test_export():
    case = Case(small())
    block = Block(case.attn)
    inputs = tuple(x.detach() for x in (*case.q, *case.k, case.v))
    wanted = block(*inputs)
    path = f"{scratch.name}/block.pt2"
    torch.export.save(torch.export.export(block, inputs), path)
    expect(torch.equal(torch.export.load(path).module()(*inputs), wanted), "an exported program")
    length = torch.export.Dim("length", min=2, max=1024)
    dynamic = torch.export.export(block, inputs, dynamic_shapes=({}, {}, {2: length}, {2: length}, {2: length})).module()
    shorter = *inputs[:2], *(x[:, :, :43].contiguous() for x in inputs[2:])
    expect(torch.equal(dynamic(*shorter), block(*shorter)), "an exported program with any length of k and v")
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        expect(torch.equal(other(*inputs), wanted) and other.attn.program is case.attn.program, "a copied module")


# Of process RANK of two: its half of the batch, with gradients that DistributedDataParallel averages.
RANK = """import sys, warnings, torch, tda, tda.nn
warnings.simplefilter("ignore")
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
module, x = torch.load(f"{folder}/module.pt", weights_only=False)
module = torch.nn.parallel.DistributedDataParallel(module)
for _ in range(2):
    module.zero_grad()
    module(x[rank:rank + 1]).square().mean().backward()
torch.save([p.grad for p in module.parameters()], f"{folder}/grads{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_ddp():
    """Two processes, each with half of a batch, have the gradients of the whole."""
    torch.manual_seed(6)
    module, x = tda.nn.ThresholdDifferentialAttention(32, 2, dtype="f32"), torch.randn(2, 24, 32)
    module(x).square().mean().backward()
    wanted = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    torch.save((module, x), f"{scratch.name}/module.pt")
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), scratch.name], stderr=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": f"{ROOT}/runtime/python"}) for rank in range(2)]
    said = [rank.communicate()[1] for rank in ranks]
    expect([rank.returncode for rank in ranks] == [0, 0], f"processes: {said}")
    grads = [torch.load(f"{scratch.name}/grads{rank}.pt") for rank in range(2)]
    expect(same(*grads), "processes have different gradients")
    for name, got, whole in zip([name for name, _ in module.named_parameters()], grads[0], wanted):
        expect(relative(got, whole) < 1e-5, f"the gradient of {name} is off by {relative(got, whole)}")


def test_threads():
    """One shape from many threads: each call has arguments of its own."""
    attn = small()
    cases = [Case(attn, seed=n) for n in range(4)]
    wanted = [case.results() for case in cases]
    bad = []

    def work(n):
        for _ in range(10):
            if not same(cases[n].results(), wanted[n]):
                bad.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(not bad, f"threads {bad} had others' results")


# ---- modules ----

def test_module():
    """The module is the formulas of its spec between its projections, and causal; parameters keep their bounds."""
    torch.manual_seed(4)
    x = torch.randn(2, 24, 64, requires_grad=True)
    for spec, kv_heads in (("tda_rmsnorm", 2), ("tda_layers", 4), ("tra", 1)):
        module = tda.nn.ThresholdDifferentialAttention(64, 4, kv_heads=kv_heads, spec=spec, layer=2, dtype="f32")
        formulas = copy.deepcopy(module)
        formulas.attention = Formulas(module.attention)
        results = []
        for each in (module, formulas):
            o = each(x)
            results.append([o, *torch.autograd.grad(o.square().sum(), [x, *each.parameters()])])
        for n, (got, wanted) in enumerate(zip(*results)):
            error = relative(got, wanted)
            expect(error < 1e-4 and wanted.abs().max() > 0, f"{spec}: result {n} is off by {error}")
        changed = torch.cat((x[:, :12], torch.randn(2, 12, 64)), 1)
        expect(torch.allclose(module(changed)[:, :12], results[0][0][:, :12], atol=1e-6), f"{spec}: later rows are seen")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expect(relative(module(x), results[0][0]) < 0.05, f"{spec}: autocast")
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        expect(torch.equal(compiled(x), module(x)), f"{spec}: compiled")
    module = tda.nn.ThresholdDifferentialAttention(64, 4, dtype="f32")
    module.learned["lambda"].data.fill_(1.25)
    beyond = module(x)
    beyond.sum().backward()
    expect(module.learned["lambda"].grad != 0, "a parameter outside of its bounds can't come back")
    module.learned["lambda"].data.fill_(1)
    expect(torch.equal(beyond, module(x)), "lambda is not clamped")


class Formulas:
    """tda.reference in a module."""

    def __init__(self, attn):
        self.attn, self.reference = attn, tda.reference(attn)

    def __getattr__(self, name):
        return getattr(self.attn, name)

    def __call__(self, **arguments):
        return self.reference(**arguments).float()


def test_dlpack():
    """PyTorch's tensors through the calls for other arrays, bfloat16 too."""
    case = Case(small(dtype="bf16"))
    wanted = case.results()
    plain = [x.detach() for x in case.inputs()]
    result = tda.forward(case.attn, q=plain[:2], k=plain[2:4], v=plain[4], beta=plain[5], lam=plain[6])
    grads = tda.backward(result, case.grad_o)
    got = [result.o, *grads.q, *grads.k, grads.v, *grads.params.values()]
    expect(same([torch.from_dlpack(x) for x in got], wanted), "results by DLPack")


PAPER = """import torch
from torch.nn.functional import normalize

def differential_threshold_rela_triton(q1, q2, k1, k2, v, beta, lambda_param, relu_power=2.0):
    length, dim = q1.shape[2:]
    tau = beta * torch.sqrt(2 * torch.log(torch.arange(1, length + 1)) / dim)[:, None]
    one, two = (((normalize(q, dim=-1) @ normalize(k, dim=-1).transpose(2, 3)).float() - tau).relu().tril() ** relu_power
                for q, k in ((q1, k1), (q2, k2)))
    return ((one - lambda_param * two) @ v.float()).to(v.dtype)
"""


def test_example():
    """runtime/examples/train_lm.py, as small as it goes; with what stands for the paper's kernels."""
    out, paper = pathlib.Path(scratch.name, "train_lm"), pathlib.Path(scratch.name, "paper.py")
    paper.write_text(PAPER)
    arguments = "--batch 4 --length 96 --dim 32 --heads 2 --layers 2 --lengths 96,128 --device cpu".split()

    def run(*more):
        return subprocess.run([sys.executable, f"{ROOT}/runtime/examples/train_lm.py", "--out", out, *arguments, "--text",
                               f"{ROOT}/runtime", *more], capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": f"{ROOT}/runtime/python"})

    ran = run("--steps", "20", "--spec", "tda", "--paper", paper)
    expect(ran.returncode == 0 and "passkey digits at 128" in ran.stdout and "the goal is above 95 %: ok" in ran.stdout,
           f"it printed {ran.stdout}{ran.stderr}")
    expect("20/20" in ran.stderr and "tokens/s" in ran.stderr and "tda, layer 1" in ran.stdout, f"shown: {ran.stderr}")
    results = json.loads((out / "results.json").read_text())
    expect(0.9 < results["tda"]["zeros"]["96"][0][0] < 1 and results["softmax"]["zeros"]["96"][0][0] == 0, "zeros")
    for name, result in results.items():
        expect(len(result["losses"]) == 20 and 0 < result["losses"][-1] < result["losses"][0], f"{name}: losses")
    same_model = abs(results["paper"]["losses"][-1] / results["tda"]["losses"][-1] - 1)
    expect(same_model < 0.01, f"the paper's model is another: {same_model}")
    ran = run("--steps", "3", "--spec", "tda_layers", "--rate", "1e30")
    expect(ran.returncode == 1 and "tda: the loss is nan at step 3" in ran.stderr, f"a loss that is not finite: {ran.stderr[-300:]}")


def test_gpu_script():
    """tests/gpu/pytorch.py, as far as CPU tensors go: that it runs, and that a failure shows."""
    def run(*arguments, **environment):
        return subprocess.run([sys.executable, "-W", "ignore", f"{ROOT}/tests/gpu/pytorch.py", ROOT, TDAGEN, LIBRARY, "--device",
                               "cpu", *arguments], capture_output=True, text=True, env={**os.environ, **environment})

    ran = run("--only", "specs", "--spec", "relu2_window", "--only", "training", "--spec", "tda", "--steps", "1")
    expect(ran.returncode == 0 and ran.stdout.count("relu2_window") == 3 and "1 steps" in ran.stdout,
           f"it printed {ran.stdout}{ran.stderr}")
    ran = run("--only", "times")
    expect(ran.returncode == 1 and "test_times raised" in ran.stdout, f"without a GPU: {ran.stdout}")


warnings.filterwarnings("ignore", message="tda: tensors on the CPU")
run_tests(test_specs, test_reference, test_layouts, test_copies, test_parameters, test_target, test_refusals,
          test_known_calls, test_known_to_none, test_without_guards, test_operators, test_symbolic_sizes, test_compile,
          test_checkpoint, test_moved, test_autocast, test_second_derivative,
          test_forward_mode, test_export, test_ddp, test_threads, test_module, test_dlpack, test_example, test_gpu_script)
