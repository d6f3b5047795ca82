"""Compiled specs on PyTorch's tensors: the operators tda::forward and tda::backward, and Attention, which calls them.

Tensors are [batch, heads, length, dim] with any strides that tda.h allows. Outputs and gradients lie in memory in the order
of dimensions of what they belong to: o as q[0], dq, dk and dv as q, k and v.

Eager calls on plain tensors take a short way, an autograd.Function around the same launches, because the operators' way
through the dispatcher takes longer than the launches. Calls whose inputs are like those of an earlier one take a shorter way
still, which asks each tensor for nothing but its address. All give the same bits.
"""
import functools
import operator
import warnings

import torch
from torch.autograd import forward_ad

from . import _lib
from ._program import Caller, Plan, Shape, find, register

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
MOST_PLANS = 4096              # of a program: beyond, a program with ever new lengths begins anew
MOST_KNOWN = 8                 # kinds of inputs that an Attention knows of one layer and set of parameters
ALIGNMENT = 16                 # bytes, of addresses and strides

_warned = set()


def _warn_once(what):
    if what not in _warned:
        _warned.add(what)
        warnings.warn(f"tda: {what}", stacklevel=2)


# ---- checks ----

def _fail(name, what):
    raise ValueError(f"tda: {name} {what}")


def _check_tensor(program, name, x, sizes, like):
    """sizes: of each dimension, None where any will do."""
    if x.dtype != DTYPES[program.dtype]:
        _fail(name, f"is {x.dtype}, and the kernel was compiled for {program.dtype}: convert it with "
              f".to({DTYPES[program.dtype]}), or compile with dtype=")
    if x.dim() != 4:
        _fail(name, f"has {x.dim()} dimensions: it must be [batch, heads, length, dim]")
    if x.device != like.device:
        _fail(name, f"is on {x.device}, v on {like.device}: all must be on one device")
    for word, have, size in zip(("batch", "heads", "length", "dim"), x.shape, sizes):
        if size is not None and have != size:
            _fail(name, f"has {word} {have}: it must be {size}")


def _layers(program, params, given, heads):
    """The length of per-layer parameters: None where none is given."""
    layers = None
    for x, n in zip(params, given):
        param = program.params[n]
        each = {_lib.ParamShape.PER_LAYER: 1, _lib.ParamShape.PER_LAYER_HEAD: heads}.get(param.shape)
        if each is None:
            continue
        if x.numel() % each or (layers is not None and layers != x.numel() // each):
            _fail(param.name, f"has {x.numel()} entries: per-layer parameters have one for each layer"
                  f"{' and head' if each != 1 else ''}, and all the same number of layers")
        layers = x.numel() // each
    return layers


def _check(program, q, k, v, params, given, layer):
    """The Shape of a call; refuses what libtda would, in PyTorch's words. Sizes may be symbols."""
    views = program.views
    if len(q) != views or len(k) != views:
        _fail("q and k", f"are {len(q)} and {len(k)} tensors: {program.name} has {views} view(s), each with a q and a k")
    batch, heads, q_len = q[0].shape[:3] if q[0].dim() == 4 else (None,) * 3
    kv_heads, k_len = (v.shape[1], v.shape[2]) if v.dim() == 4 else (None, None)
    for n in range(views):
        _check_tensor(program, f"q[{n}]", q[n], (batch, heads, q_len, program.head_dim), v)
        _check_tensor(program, f"k[{n}]", k[n], (batch, kv_heads, k_len, program.head_dim), v)
    _check_tensor(program, "v", v, (batch, None, None, program.value_dim), v)
    if kv_heads == 0 or heads % kv_heads != 0:
        _fail("k and v", f"have {kv_heads} heads: that must divide the {heads} of q")
    layers = _layers(program, params, given, heads)
    if layers is None:
        layers = layer + 1
    if layer < 0 or layer >= layers:
        _fail("layer", f"is {layer}: it must be in 0..{layers - 1}, as the parameters have {layers} layers")
    for x, n in zip(params, given):
        length = program.param_length(program.params[n], heads, layers)
        if x.dtype != torch.float32 or x.numel() != length or x.device != v.device or not x.is_contiguous():
            _fail(program.params[n].name, f"is {x.dtype} with {x.numel()} entries on {x.device}: it must be torch.float32, "
                  f"contiguous, with {length} entries on {v.device}")
    return Shape(batch, heads, kv_heads, q_len, k_len, layer, layers)


# ---- memory ----

def _packed_strides(like, dim):
    """Of a tensor [batch, heads, length, dim] without gaps, in the order of dimensions that `like` has: [batch, length,
    heads, dim] in memory where its heads lie closer together than its rows."""
    _, heads, length, _ = like.shape
    if like.stride(1) < like.stride(2):
        return (heads * length * dim, dim, heads * dim, 1)
    return (heads * length * dim, length * dim, dim, 1)


def _like(x, dim):
    return torch.empty_strided((*x.shape[:3], dim), _packed_strides(x, dim), dtype=x.dtype, device=x.device)


def _strides_fit(x):
    unit = ALIGNMENT // x.element_size()
    return (x.shape[3] == 1 or x.stride(3) == 1) and all(s % unit == 0 for s, n in zip(x.stride()[:3], x.shape[:3]) if n > 1)


def _copy(x):
    return _like(x, x.shape[3]).copy_(x)


def _fitting(x, name=None):
    """x, or a copy where libtda could not read it; a name is of an input, whose copies are told of."""
    if _strides_fit(x) and x.data_ptr() % ALIGNMENT == 0:
        return x
    if name:
        _warn_once(f"{name} is copied at each call: its last dimension is not contiguous, or an address or a stride is not "
                   f"a multiple of {ALIGNMENT} bytes")
    return _copy(x)


def _launch_strides(x):
    """(batch, head, row), 0 where there is one entry: PyTorch leaves those strides open."""
    return tuple(s if n > 1 else 0 for s, n in zip(x.stride()[:3], x.shape[:3]))


# ---- launches ----

@functools.lru_cache(None)
def _bits(mask):
    return tuple(n for n in range(_lib.MAX_PARAMS) if mask >> n & 1)


class _TorchPlan(Plan):
    """A Plan with the sizes and strides of the tensors to allocate."""

    def __init__(self, program, tensors, given, layer):
        views = program.views
        q, k, v, params = tensors[:views], tensors[views:2 * views], tensors[2 * views], tensors[2 * views + 1:]
        shape = _check(program, q, k, v, params, given, layer)
        self.device, self.dtype = v.device, v.dtype
        inputs = (*q, *k, v)
        self.input_count = len(inputs)
        self.fits = all(map(_strides_fit, inputs))
        self.strides = [x.stride() for x in tensors]
        self.output_size = (*q[0].shape[:3], program.value_dim)
        self.output_strides = _packed_strides(q[0], program.value_dim)
        self.grad_sizes = [(tuple(x.shape), _packed_strides(x, x.shape[3])) for x in inputs]
        self.param_sizes = {n: tuple(x.shape) for n, x in zip(given, params)}
        super().__init__(program, shape, [_launch_strides(x) for x in inputs], self.output_strides[:3],
                         [strides[:3] for _, strides in self.grad_sizes], given)
        if self.device.type == "cuda":
            self.run_on_gpu(self.device.index)
        elif self.device.type == "cpu":
            self.run_on_cpu()
        else:
            _fail("v", f"is on {self.device}: kernels run on CUDA GPUs, and CPU tensors through the reference")

    def run_on_gpu(self, index):
        library = _lib.library()
        self.on_gpu, self.index = True, index
        self.functions = library.tda_forward, library.tda_backward

    def run_on_cpu(self):
        library = _lib.library()
        self.on_gpu, self.index = False, None
        self.functions = library.tda_reference_forward, library.tda_reference_backward
        self.saved_bytes = self.forward_scratch = self.backward_scratch = 0
        _warn_once("tensors on the CPU run through the float64 reference, thousands of times slower than a GPU")

    def launch(self, backward, arguments):
        """Calls libtda, on the current stream."""
        function, handle, pointer = self.functions[backward], self.program.kernel._handle, arguments.pointer
        if not self.on_gpu:
            _lib._check(function(handle, pointer))
            return
        index = self.index
        stream = torch._C._cuda_getCurrentRawStream(index)
        if index not in self.program.loaded:
            self.program.telling(Caller(function, handle, stream, index), index)(pointer)
        elif status := function(handle, pointer, stream):
            Caller(function, handle, stream, index).settle(status, pointer)

    def work(self, size):
        return torch.empty(size, dtype=torch.uint8, device=self.device)


def _plan_of(program, tensors, given, layer):
    key = (given, layer, *[(x.dtype, x.device, x.shape, x.stride()) for x in tensors])
    plan = program.plans.get(key)
    if plan is None:
        if len(program.plans) >= MOST_PLANS:
            program.plans.clear()
        plan = program.plans[key] = _TorchPlan(program, tensors, given, layer)
    return plan


def _addresses(tensors, inputs):
    """Of all tensors; None where one of the inputs, which come first, is not aligned."""
    addresses = [x.data_ptr() for x in tensors]
    return None if functools.reduce(operator.or_, addresses[:inputs]) % ALIGNMENT else addresses


def _names(views):
    return [f"q[{n}]" for n in range(views)] + [f"k[{n}]" for n in range(views)] + ["v"]


def _ready(plan, tensors):
    """(plan, tensors, their addresses): those that libtda can't read where they lie are copied."""
    inputs = plan.input_count
    addresses = _addresses(tensors, inputs)
    if plan.fits and addresses:
        return plan, tensors, addresses
    copied = (*(_fitting(x, name) for x, name in zip(tensors, _names(plan.program.views))), *tensors[inputs:])
    return _plan_of(plan.program, copied, plan.given, plan.shape.layer), copied, _addresses(copied, inputs)


def _ready_again(plan, tensors):
    """The same of tensors that were saved for a backward: hooks may have moved them and packed them."""
    if plan.strides != [x.stride() for x in tensors]:
        plan = _plan_of(plan.program, tensors, plan.given, plan.shape.layer)
    return _ready(plan, tensors)


def _guard(plan):
    """None where the plan's GPU is the current one; else a context in which it is."""
    if plan.on_gpu and torch._C._cuda_getDevice() != plan.index:
        return torch.cuda.device(plan.device)
    return None


def _forward(plan, addresses):
    """(o, saved) of the addresses of q.., k.., v and the given parameters."""
    if guard := _guard(plan):
        with guard:
            return _forward(plan, addresses)
    o = torch.empty_strided(plan.output_size, plan.output_strides, dtype=plan.dtype, device=plan.device)
    saved = plan.work(plan.saved_bytes)
    addresses += o.data_ptr(), saved.data_ptr()
    if plan.forward_scratch:
        scratch = plan.work(plan.forward_scratch)
        addresses.append(scratch.data_ptr())
    arguments = plan.take_forward()
    arguments.fill(addresses)
    plan.launch(False, arguments)
    arguments.pool.append(arguments)
    return o, saved


def _backward(plan, addresses, grad_o, saved, wanted):
    """[dq.., dk.., dv, the wanted gradients of parameters]."""
    if guard := _guard(plan):
        with guard:
            return _backward(plan, addresses, grad_o, saved, wanted)
    grad_o = _fitting(grad_o)
    device, dtype = plan.device, plan.dtype
    grads = [torch.empty_strided(size, strides, dtype=dtype, device=device) for size, strides in plan.grad_sizes]
    grads += [torch.empty(plan.param_sizes[n], dtype=torch.float32, device=device) for n in wanted]
    addresses += [x.data_ptr() for x in (grad_o, saved, *grads)]
    if plan.backward_scratch:
        scratch = plan.work(plan.backward_scratch)
        addresses.append(scratch.data_ptr())
    arguments = plan.take_backward(_launch_strides(grad_o), wanted)
    arguments.fill(addresses)
    plan.launch(True, arguments)
    arguments.pool.append(arguments)
    return grads


# ---- the operators ----

_library = torch.library.Library("tda", "DEF")
# kernel: a program's key; given and wanted: bits of the parameters that are in params, and whose gradients are in the result
_library.define("forward(Tensor[] q, Tensor[] k, Tensor v, Tensor[] params, str kernel, int given, int layer) "
                "-> (Tensor o, Tensor saved)", tags=(torch.Tag.needs_fixed_stride_order,))
_library.define("backward(Tensor grad_o, Tensor[] q, Tensor[] k, Tensor v, Tensor[] params, Tensor saved, str kernel, "
                "int given, int layer, int wanted) -> Tensor[]", tags=(torch.Tag.needs_fixed_stride_order,))


def _forward_op(q, k, v, params, kernel, given, layer):
    tensors = (*q, *k, v, *params)
    plan, _, addresses = _ready(_plan_of(find(kernel), tensors, _bits(given), layer), tensors)
    return _forward(plan, addresses)


def _backward_op(grad_o, q, k, v, params, saved, kernel, given, layer, wanted):
    tensors = (*q, *k, v, *params)
    plan, _, addresses = _ready(_plan_of(find(kernel), tensors, _bits(given), layer), tensors)
    return _backward(plan, addresses, grad_o, saved, _bits(wanted))


for _key in ("CUDA", "CPU"):
    _library.impl("forward", _forward_op, _key)
    _library.impl("backward", _backward_op, _key)


@torch.library.register_fake("tda::forward", lib=_library)
def _forward_fake(q, k, v, params, kernel, given, layer):
    program = find(kernel)
    shape = _check(program, q, k, v, params, _bits(given), layer)
    saved = program.saved_bytes(shape) if v.device.type == "cuda" else 0
    return _like(q[0], program.value_dim), torch.empty(saved, dtype=torch.uint8, device=v.device)


@torch.library.register_fake("tda::backward", lib=_library)
def _backward_fake(grad_o, q, k, v, params, saved, kernel, given, layer, wanted):
    wanted_params = [x for x, n in zip(params, _bits(given)) if wanted >> n & 1]
    return [*(_like(x, x.shape[3]) for x in (*q, *k, v)), *(torch.empty_like(x) for x in wanted_params)]


def _refuse_second(*_):
    raise RuntimeError("tda: second derivatives are not available: the backward of an attention can't be differentiated "
                       "again (create_graph=True, gradient penalties, torch.autograd.functional.hessian)")


def _setup_context(ctx, inputs, output):
    q, k, v, params, ctx.kernel, ctx.given, ctx.layer = inputs
    ctx.save_for_backward(*q, *k, v, *params, output[1])


def _spread(grads, wanted, given):
    """Gradients of the given parameters, None where not wanted."""
    grads = iter(grads)
    return [next(grads) if n in wanted else None for n in given]


def _backward_of_op(ctx, grad_o, _):
    *tensors, saved = ctx.saved_tensors
    views = find(ctx.kernel).views
    given = _bits(ctx.given)
    q, k, v, params = tensors[:views], tensors[views:2 * views], tensors[2 * views], tensors[2 * views + 1:]
    grads = torch.ops.tda.backward(grad_o, q, k, v, params, saved, ctx.kernel, ctx.given, ctx.layer, ctx.given)
    return grads[:views], grads[views:2 * views], grads[2 * views], list(grads[2 * views + 1:]), None, None, None


torch.library.register_autograd("tda::forward", _backward_of_op, setup_context=_setup_context, lib=_library)
torch.library.register_autograd("tda::backward", _refuse_second, lib=_library)


# ---- the short way ----

class _Second(torch.autograd.Function):
    """The backward where a graph of it was asked for: right, but not to be differentiated."""

    @staticmethod
    def forward(ctx, plan, wanted, grad_o, saved, *tensors):
        plan, _, addresses = _ready_again(plan, tensors)
        return tuple(_backward(plan, addresses, grad_o, saved, wanted))

    backward = staticmethod(_refuse_second)


class _Short(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan, *tensors):
        plan, tensors, addresses = _ready(plan, tensors)
        o, saved = _forward(plan, addresses)
        ctx.save_for_backward(saved, *tensors)
        ctx.plan = plan
        return o

    @staticmethod
    def backward(ctx, grad_o):
        plan = ctx.plan
        saved, *tensors = ctx.saved_tensors
        first = 2 * plan.program.views + 1
        given = plan.given
        wanted = tuple(n for n, needed in zip(given, ctx.needs_input_grad[1 + first:]) if needed)
        if torch.is_grad_enabled():
            grads = _Second.apply(plan, wanted, grad_o, saved, *tensors)
        else:
            plan, _, addresses = _ready_again(plan, tensors)
            grads = _backward(plan, addresses, grad_o, saved, wanted)
        if len(wanted) == len(given):
            return (None, *grads)
        return (None, *grads[:first], *_spread(grads[first:], wanted, given))


def _refuse_tangents(tensors):
    """PyTorch would drop them without a word."""
    if any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError("tda: forward-mode derivatives (torch.func.jvp, torch.autograd.forward_ad) are not "
                                  "available")


# ---- the shorter way ----

def _find_comparison():
    """A function from tensors to a function that says whether others are like them: torch.compile's guards, a single call into C,
    where asking each tensor takes longer than all else that a call does in Python. None where this PyTorch has no such guards;
    then every call asks each tensor."""
    try:
        from torch._C._dynamo.guards import TensorGuards

        def comparison(tensors):
            return TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check

        x = torch.empty(2, 3)
        like = comparison([x])
        return comparison if like(torch.empty(2, 3)) and not like(x.mT) and not like(x.mT.contiguous()) else None
    except (ImportError, TypeError):
        return None


_comparison = _find_comparison()


class _Known:
    """Inputs that a call on plain tensors had. Others that are like them have the same types, dtypes, devices, sizes, strides,
    requires_grad and dispatch keys."""
    __slots__ = "count", "like", "plan", "order", "grad"

    def __init__(self, given, inputs, plan):
        """given: as the caller gives them, inputs: the same tensors as the plan takes them."""
        self.count, self.like, self.plan = len(given), _comparison(given), plan
        places = [id(x) for x in given]
        order = [places.index(id(x)) for x in inputs]
        self.order = order if order != sorted(order) else None
        self.grad = any(x.requires_grad for x in inputs)


# Function.apply without its search for wrappers that functorch has left behind: those are not like plain tensors.
_apply_known = super(torch.autograd.Function, _Short).apply


# ---- calls ----

_DEVICES = ("cuda", "cpu")      # that kernels and the reference run on
_PLAIN = {torch.Tensor, torch.nn.Parameter}
_is_compiling = torch.compiler.is_compiling
_count_modes, _are_transforms_active = torch._C._len_torch_dispatch_stack, torch._C._are_functorch_transforms_active


def _is_watched():
    """A mode or a transform wants to see the operators, or derivatives that there are none of are being computed."""
    return _count_modes() or _are_transforms_active() or forward_ad._current_level >= 0


def _is_plain(tensors):
    """No tracing, no transform, no mode and no subclass wants to see the operators."""
    return not (_is_compiling() or _count_modes() or _are_transforms_active()) and _PLAIN.issuperset(map(type, tensors))


def current_target():
    """What tdagen should compile for, or None for its default: asks for the current GPU, if there is one."""
    return "sm_90a" if torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0) else None


class Attention:
    """A compiled spec, called as

        o = attn(q=[q1, q2], k=[k1, k2], v=v, beta=beta, lam=lam, layer=3)

    q and k: a tensor for each view, or one tensor where there is one view; [batch, heads, length, head_dim], or with
    layout="bthd" [batch, length, heads, head_dim]. v likewise with value_dim. Heads of k and v divide those of q. Views are
    taken as they are, without copies, where their last dimension is contiguous and addresses and strides are multiples of
    16 bytes; others are copied, which a warning tells once. o is shaped as q, and lies in memory as q[0] does.

    Learned parameters are given by name (lam stands for lambda): float32 tensors of the shapes that docs/spec.md lists, or
    numbers; one that is left out has its initial value. All inputs and parameters get gradients. Under autocast q, k and v
    are converted to the kernel's dtype; elsewhere another dtype is refused.
    """

    def __init__(self, program):
        self.program = program
        self.key, self.name, self.dtype = program.key, program.name, DTYPES[program.dtype]
        self.views, self.head_dim, self.value_dim, self.params = (program.views, program.head_dim, program.value_dim,
                                                                  program.params)
        self.param_index = program.param_index
        self._known = {}               # by layer and names of parameters, the latest first

    def __repr__(self):
        return f"tda.Attention({self.name}, {self.program.dtype}, head_dim={self.head_dim}, {self.program.target})"

    def __reduce__(self):
        return _restore, (self.program.ptx, self.key)

    def preload(self, device=None):
        """Loads the kernels into a GPU now, which the first call does otherwise."""
        with torch.cuda.device(device):
            torch.empty(1, device="cuda")
            device = torch.cuda.current_device()
            call = Caller(lambda handle, *_: _lib.library().tda_preload(handle), self.program.kernel._handle, None, device)
            self.program.telling(call, device)(None)

    def __call__(self, q, k, v, *, layer=0, layout="bhtd", **params):
        q = [q] if isinstance(q, torch.Tensor) else list(q)
        k = [k] if isinstance(k, torch.Tensor) else list(k)
        if layout != "bhtd":
            if layout != "bthd":
                raise ValueError(f'tda: layout is "bhtd" or "bthd", not {layout!r}')
            o = self(q=[x.transpose(1, 2) for x in q], k=[x.transpose(1, 2) for x in k], v=v.transpose(1, 2), layer=layer,
                     **params)
            return o.transpose(1, 2)
        if not (_is_compiling() or _is_watched()):
            o = self._as_before((layer, *params), q, k, (*q, *k, v, *params.values()))
            if o is not None:
                return o
        device = v.device.type
        if device in _DEVICES and torch.is_autocast_enabled(device):
            q, k, v = [x.to(self.dtype) for x in q], [x.to(self.dtype) for x in k], v.to(self.dtype)
        given, tensors = 0, []
        if params:
            given, tensors = self._sorted(params, q[0], layer)
        inputs = [*q, *k, v, *tensors]
        if forward_ad._current_level >= 0 and not _is_compiling():
            _refuse_tangents(inputs)
        if device not in _DEVICES or not _is_plain(inputs):
            return torch.ops.tda.forward(q, k, v, tensors, self.key, given, layer)[0]
        if len(q) != self.views or len(k) != self.views:
            _check(self.program, q, k, v, (), (), layer)
        plan = _plan_of(self.program, inputs, _bits(given), layer)
        self._remember((layer, *params), (*q, *k, v, *params.values()), inputs, plan)
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            return _Short.apply(plan, *inputs)
        plan, _, addresses = _ready(plan, inputs)
        return _forward(plan, addresses)[0]

    def _as_before(self, key, q, k, inputs):
        """The output of a call whose inputs are like those of an earlier one; None of any other."""
        for known in self._known.get(key, ()):
            if len(inputs) == known.count and known.like(*inputs):
                break
        else:
            return None
        if len(q) != self.views or len(k) != self.views:
            return None
        if known.order:
            inputs = [inputs[n] for n in known.order]
        if known.grad and torch.is_grad_enabled():
            return _apply_known(known.plan, *inputs)
        plan, _, addresses = _ready(known.plan, inputs)
        return _forward(plan, addresses)[0]

    def _remember(self, key, given, inputs, plan):
        """Keeps what the next call is compared with, where the caller's own tensors are what the plan takes."""
        if not (_comparison and plan.fits and len(given) == len(inputs) == len({*map(id, given), *map(id, inputs)})):
            return
        if len(self._known) >= MOST_PLANS:
            self._known.clear()
        self._known[key] = (_Known(given, inputs, plan), *self._known.get(key, ())[:MOST_KNOWN - 1])

    def _sorted(self, params, like, layer):
        """The mask of the parameters that are given, and their tensors in order."""
        found = {}
        for name, value in params.items():
            index = self.param_index.get(name)
            if index is None or index in found:
                names = ", ".join(p.name for p in self.params) or "none"
                raise TypeError(f"tda: {name} is {'given twice' if index is not None else 'no parameter'} of {self.name}; "
                                f"its parameters: {names}")
            if value is not None:
                found[index] = self._param(index, value, like, layer)
        given = 0
        for index in found:
            given |= 1 << index
        return given, [found[index] for index in sorted(found)]

    def _param(self, index, value, like, layer):
        if not isinstance(value, torch.Tensor):
            return torch.full((self.program.param_length(self.params[index], like.shape[1], layer + 1),), float(value),
                              device=like.device)
        if value.dtype is not torch.float32:
            value = value.float()
        return value if value.is_contiguous() else value.contiguous()


def _restore(ptx, key):
    return Attention(register(ptx, key))
