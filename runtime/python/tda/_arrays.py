"""Forward and backward on arrays of NumPy, CuPy, JAX and whatever else speaks DLPack or an array interface. No PyTorch.

    program = tda.program("tda", head_dim=64, dtype="f32")
    result = tda.forward(program, q=[q1, q2], k=[k1, k2], v=v, beta=beta)
    grads = tda.backward(result, grad_o)           # grads.q[0], grads.k[0], grads.v, grads.params["beta"]

Arrays are [batch, heads, length, dim] of the kernel's dtype, with strides as tda.h allows them; learned parameters are
float32. On a GPU results are on the stream that was named, in memory of their own, and to be taken over by the library's
from_dlpack; host arrays run through the f64 reference. NumPy arrays give NumPy arrays.
"""
import collections
import sys

from . import _driver, _lib
from ._dlpack import CPU, Array, Memory, view
from ._program import Plan, Shape

Grads = collections.namedtuple("Grads", "q k v params")


class Result:
    """o, and what the backward needs."""

    def __init__(self, o, plan, views, saved, device, stream, numpy):
        self.o, self._plan, self._views, self._saved = o, plan, views, saved
        self._device, self._stream, self._numpy = device, stream, numpy


def _check(name, x, dtype, device, sizes=None):
    """sizes: of each dimension, None where any will do."""
    if x.dtype != dtype:
        raise TypeError(f"tda: {name} is {x.dtype}: it must be {dtype}")
    if x.device != device:
        raise ValueError(f"tda: {name} is on another device than v")
    if sizes is None:
        return
    if len(x.shape) != 4 or any(size not in (None, n) for n, size in zip(x.shape, sizes)):
        wanted = ", ".join("any" if size is None else str(size) for size in sizes)
        raise ValueError(f"tda: {name} has the shape {x.shape}: it must be [{wanted}]")
    if x.strides[3] != 1 and x.shape[3] > 1:
        raise ValueError(f"tda: the last dimension of {name} must be contiguous")


def _launch_strides(x):
    return tuple(s if n > 1 else 0 for s, n in zip(x.strides[:3], x.shape[:3]))


def _params(program, params, device, stream):
    """{index: View}"""
    found = {}
    for name, value in params.items():
        if name not in program.param_index:
            raise TypeError(f"tda: {name} is no parameter of {program.name}; its parameters: "
                            f"{', '.join(p.name for p in program.params) or 'none'}")
        x = view(name, value, stream)
        _check(name, x, "f32", device)
        found[program.param_index[name]] = x
    return found


def _layers(program, params, heads, layer):
    for n, x in params.items():
        each = {_lib.ParamShape.PER_LAYER: 1, _lib.ParamShape.PER_LAYER_HEAD: heads}.get(program.params[n].shape)
        if each:
            return max(_count(x.shape) // each, 1)
    return layer + 1


def _count(shape):
    count = 1
    for size in shape:
        count *= size
    return count


def _call(program, device, stream, backward):
    if device[0] == CPU:
        function = _lib.library().tda_reference_backward if backward else _lib.library().tda_reference_forward
        return lambda pointer: _lib._check(function(program.kernel._handle, pointer))
    function = _lib.library().tda_backward if backward else _lib.library().tda_forward

    def call(pointer):
        with _driver.current(device[1]):
            _lib._check(function(program.kernel._handle, pointer, stream))
    return program.telling(call, device[1])


def _new(shape, dtype, device, stream):
    if device[0] == CPU:
        return Array(shape, dtype, device, stream)
    with _driver.current(device[1]):
        return Array(shape, dtype, device, stream)


def _work(size, device, stream):
    if device[0] == CPU or not size:
        return None
    with _driver.current(device[1]):
        return Memory(size, device, stream)


def _address(memory):
    return memory.address if memory else 0


def _given_back(array, numpy):
    return sys.modules["numpy"].asarray(array) if numpy and array.dtype != "bf16" else array


def forward(program, q, k, v, *, layer=0, stream=0, **params):
    """A Result, whose o is [batch, heads, q_len, value_dim]. program: of tda.program, or an Attention. stream: a CUstream or
    cudaStream_t as a number; 0 is the default one. Arrays must stay unchanged until the backward has run."""
    program = getattr(program, "program", program)
    numpy = type(v).__module__ == "numpy"
    q, k = ([x] if not isinstance(x, (list, tuple)) else x for x in (q, k))
    if len(q) != program.views or len(k) != program.views:
        raise ValueError(f"tda: q and k are {len(q)} and {len(k)} arrays: {program.name} has {program.views} view(s)")
    q, k = ([view(f"{name}[{n}]", x, stream) for n, x in enumerate(xs)] for name, xs in (("q", q), ("k", k)))
    v = view("v", v, stream)
    device, dtype = v.device, program.dtype
    _check("v", v, dtype, device, (None, None, None, program.value_dim))
    batch, kv_heads, k_len = v.shape[:3]
    heads, q_len = (q[0].shape[1:3] if len(q[0].shape) == 4 else (None, None))
    for n in range(program.views):
        _check(f"q[{n}]", q[n], dtype, device, (batch, heads, q_len, program.head_dim))
        _check(f"k[{n}]", k[n], dtype, device, (batch, kv_heads, k_len, program.head_dim))
    found = _params(program, params, device, stream)
    shape = Shape(batch, heads, kv_heads, q_len, k_len, layer, _layers(program, found, heads, layer))
    given = tuple(sorted(found))
    for n in given:
        length = program.param_length(program.params[n], heads, shape.layers)
        if _count(found[n].shape) != length:
            raise ValueError(f"tda: {program.params[n].name} has {_count(found[n].shape)} entries: it must have {length}")
    views = [*q, *k, v, *(found[n] for n in given)]
    o = _new((batch, heads, q_len, program.value_dim), dtype, device, stream)
    grad_strides = [_packed(x) for x in (*q, *k, v)]
    plan = Plan(program, shape, [_launch_strides(x) for x in (*q, *k, v)], o.strides[:3], grad_strides, given)
    saved, scratch = (_work(size, device, stream) for size in (plan.saved_bytes, plan.forward_scratch))
    plan.forward([*(x.address for x in views), o.address, _address(saved), _address(scratch)],
                 _call(program, device, stream, False))
    return Result(_given_back(o, numpy), plan, views, saved, device, stream, numpy)


def _packed(x):
    _, heads, length, dim = x.shape
    return heads * length * dim, length * dim, dim


def backward(result, grad_o):
    """The Grads of a forward's inputs and of the parameters that it was given, by name."""
    plan, device, stream = result._plan, result._device, result._stream
    program, shape = plan.program, plan.shape
    grad_o = view("grad_o", grad_o, stream)
    _check("grad_o", grad_o, program.dtype, device, (shape.batch, shape.heads, shape.q_len, program.value_dim))
    views = result._views
    inputs = views[:2 * program.views + 1]
    grads = [_new(x.shape, program.dtype, device, stream) for x in inputs]
    dparams = [_new(x.shape, "f32", device, stream) for x in views[len(inputs):]]
    scratch = _work(plan.backward_scratch, device, stream)
    addresses = [*(x.address for x in views), grad_o.address, _address(result._saved),
                 *(x.address for x in (*grads, *dparams)), _address(scratch)]
    plan.backward(_launch_strides(grad_o), plan.given, addresses, _call(program, device, stream, True))
    grads, dparams = ([_given_back(x, result._numpy) for x in xs] for xs in (grads, dparams))
    names = [program.params[n].name for n in plan.given]
    return Grads(grads[:program.views], grads[program.views:-1], grads[-1], dict(zip(names, dparams)))
