"""A compiled spec: libtda's kernel, and what the PTX says about itself as plain Python values. Needs no PyTorch.

Launches of one shape share a Plan, which keeps the arguments' structs: only addresses change from call to call.
"""
import collections
import ctypes
import hashlib
import re
import threading

from . import _driver, _lib, _progress

Param = collections.namedtuple("Param", "name shape init min max")      # shape: a _lib.ParamShape
Shape = collections.namedtuple("Shape", "batch heads kv_heads q_len k_len layer layers")

_programs = {}                 # by key; kept for the life of the process, as compiled graphs name them
_lock = threading.Lock()


class Program:
    """key names it in graphs and in the cache: the same key is the same PTX."""

    def __init__(self, ptx, key):
        self.ptx, self.key = ptx, key
        self.kernel = _lib.open_memory(ptx)
        info = self.kernel.info()
        self.name, self.target, self.plan = info.name.decode(), info.target.decode(), info.plan.decode()
        self.dtype = _lib.Dtype(info.dtype).name.lower()
        self.views, self.head_dim, self.value_dim = info.views, info.head_dim, info.value_dim
        self.l2_normalized, self.causal, self.window = bool(info.l2_normalized), bool(info.causal), info.window
        self.rms_norm, self.zeros_proved = bool(info.rms_norm), bool(info.zeros_proved)
        self.tolerances = info.forward_tolerance, info.backward_tolerance
        self.params = [Param(p.name.decode(), _lib.ParamShape(p.shape), p.init, p.min, p.max)
                       for p in info.params[:info.param_count]]
        # `lambda` is a word of Python
        self.param_index = {name: n for n, p in enumerate(self.params)
                            for name in ([p.name, "lam", "lambda_"] if p.name == "lambda" else [p.name])}
        self.manifest = _manifest(ptx)
        self.plans = {}
        self.loaded = set()            # GPUs by number

    def param_length(self, param, heads, layers):
        return {_lib.ParamShape.SCALAR: 1, _lib.ParamShape.PER_HEAD: heads, _lib.ParamShape.PER_LAYER: layers,
                _lib.ParamShape.PER_LAYER_HEAD: layers * heads, _lib.ParamShape.PER_CHANNEL: self.value_dim}[param.shape]

    def saved_bytes(self, shape):
        """What tda_get_sizes says, from the manifest's formulas: the lengths may be symbols of a traced graph."""
        names = {**_FORMULA_FUNCTIONS, **shape._asdict()}
        total = 0
        for words in self.manifest["buffer"]:
            if words[1] == "saved":
                total = total + _round_up(eval(_python_formula(words[2]), {"__builtins__": {}}, names), 256)
        return total

    def telling(self, call, device):
        """The call; the first on a GPU loads the kernels, whose PTX the driver translates, and tells when that takes long."""
        if device in self.loaded:
            return call

        def first(pointer):
            with _progress.shown(f"loading the kernels of {self.name} into GPU {device}"):
                call(pointer)
            self.loaded.add(device)
        return first

    def sizes(self, shape):
        return self.kernel.sizes(_lib.Shape(**shape._asdict()))


def register(ptx, key=None):
    """The program of a PTX text; opened once."""
    key = key or "ptx-" + hashlib.sha256(ptx).hexdigest()
    with _lock:
        if key not in _programs:
            _programs[key] = Program(ptx, key)
        return _programs[key]


def find(key):
    """The program that a graph names; graphs of other processes find theirs in the cache."""
    program = _programs.get(key)
    if program is None:
        from . import _cache
        ptx = _cache.read(key)
        if ptx is None:
            raise RuntimeError(f"tda: the kernel {key} is not loaded here: call tda.compile or tda.load as the program did "
                               "that made this graph")
        program = register(ptx, key)
    return program


def _manifest(ptx):
    """The lines that docs/manifest.md describes, by keyword, as lists of words."""
    lines = collections.defaultdict(list)
    for line in ptx.decode("ascii", "replace").splitlines():
        if not line.startswith("//! "):
            break
        keyword, *words = line[4:].split(" ")
        lines[keyword].append(words)
    return lines


# ---- formulas ----

def _round_up(a, b):
    return (a + b - 1) // b * b


def _least(a, b):
    import torch
    return torch.sym_min(a, b)


def _most(a, b):
    import torch
    return torch.sym_max(a, b)


_FORMULA_FUNCTIONS = {"min": _least, "max": _most, "ceil_div": lambda a, b: (a + b - 1) // b, "round_up": _round_up}


def _python_formula(text):
    """libtda has parsed it when it opened the file: it is made of numbers, names, + - * / % and parentheses."""
    if not re.fullmatch(r"[\w+\-*/%(),]+", text):
        raise ValueError(f"tda: a formula of the manifest is not one: {text}")
    return text.replace("/", "//")


# ---- arguments ----

_WORD = 8
_TENSOR_WORDS = ctypes.sizeof(_lib.Tensor) // _WORD


class Arguments:
    """A struct of arguments, and where in it the addresses go that change from call to call; pool: the list of those of its
    kind that no call uses now."""

    def __init__(self, struct, places, pool):
        self.struct, self.places, self.pool = struct, places, pool
        self.words = (ctypes.c_uint64 * (ctypes.sizeof(struct) // _WORD)).from_buffer(struct)
        self.pointer = ctypes.pointer(struct)

    def fill(self, addresses):
        words = self.words
        for place, address in zip(self.places, addresses):
            words[place] = address


def _places(struct, names, views, given):
    """The words of the addresses of fields: a tensor, a list of views, or the given ones of the parameters."""
    places = []
    for name in names:
        at = getattr(struct, name).offset // _WORD
        if name in ("q", "k", "dq", "dk"):
            places += [at + n * _TENSOR_WORDS for n in range(views)]
        elif name in ("params", "dparams"):
            places += [at + n for n in given]
        else:
            places.append(at)
    return places


def _set_strides(struct, names, views, strides):
    """strides: one (batch, head, row) for each tensor of the names."""
    strides = iter(strides)
    for name in names:
        field = getattr(struct, name)
        for tensor in (field[n] for n in range(views)) if name in ("q", "k", "dq", "dk") else [field]:
            tensor.batch_stride, tensor.head_stride, tensor.row_stride = next(strides)


class Plan:
    """Launches of one shape, with inputs and outputs of given strides.

    inputs, outputs, grads: strides (batch, head, row) of q.., k.., v; of o; of dq.., dk.., dv. given: which parameters are, by
    index. Addresses are in the order: q.., k.., v, the given parameters, o, saved, scratch of a forward; q.., k.., v, the given
    parameters, grad_o, saved, dq.., dk.., dv, the wanted gradients of parameters, scratch of a backward. There may be no scratch
    where none is needed.
    """

    def __init__(self, program, shape, inputs, output, grads, given):
        self.program, self.shape, self.given = program, shape, given
        self.inputs, self.output, self.grads = inputs, output, grads
        sizes = program.sizes(shape)
        self.saved_bytes, self.forward_scratch, self.backward_scratch = \
            sizes.saved, sizes.forward_scratch, sizes.backward_scratch
        # Structs that no call uses now: calls run beside each other, and libtda reads them while Python goes on.
        self.forward_pool, self.backward_pools = [], {}

    def _new_forward(self):
        struct = _lib.ForwardArgs(shape=_lib.Shape(**self.shape._asdict()), saved_bytes=self.saved_bytes,
                                  scratch_bytes=self.forward_scratch)
        views = self.program.views
        _set_strides(struct, ("q", "k", "v"), views, self.inputs)
        _set_strides(struct, ("o",), views, [self.output])
        names = "q", "k", "v", "params", "o", "saved", "scratch"
        return Arguments(struct, _places(_lib.ForwardArgs, names, views, self.given), self.forward_pool)

    def _new_backward(self, grad_o, wanted, pool):
        struct = _lib.BackwardArgs(shape=_lib.Shape(**self.shape._asdict()), saved_bytes=self.saved_bytes,
                                   scratch_bytes=self.backward_scratch)
        views = self.program.views
        _set_strides(struct, ("q", "k", "v"), views, self.inputs)
        _set_strides(struct, ("grad_o",), views, [grad_o])
        _set_strides(struct, ("dq", "dk", "dv"), views, self.grads)
        places = _places(_lib.BackwardArgs, ("q", "k", "v", "params", "grad_o", "saved", "dq", "dk", "dv"), views, self.given)
        places += _places(_lib.BackwardArgs, ("dparams",), views, wanted) + _places(_lib.BackwardArgs, ("scratch",), views, ())
        return Arguments(struct, places, pool)

    def take_forward(self):
        """Arguments to fill with addresses; who has called libtda with them puts them into their pool."""
        try:
            return self.forward_pool.pop()         # another thread may take the last one at any time
        except IndexError:
            return self._new_forward()

    def take_backward(self, grad_o, wanted):
        """grad_o: its strides; wanted: the parameters whose gradients are."""
        pool = self.backward_pools.get((grad_o, wanted))
        if pool is None:
            pool = self.backward_pools.setdefault((grad_o, wanted), [])
        try:
            return pool.pop()
        except IndexError:
            return self._new_backward(grad_o, wanted, pool)

    def forward(self, addresses, call):
        """Passes a pointer to the arguments to call."""
        _call_with(self.take_forward(), addresses, call)

    def backward(self, grad_o, wanted, addresses, call):
        _call_with(self.take_backward(grad_o, wanted), addresses, call)


def _call_with(arguments, addresses, call):
    arguments.fill(addresses)
    call(arguments.pointer)
    arguments.pool.append(arguments)


# ---- calls ----

class Caller:
    """A function of libtda on a kernel and a stream: call(pointer to arguments)."""
    __slots__ = ("function", "handle", "stream", "device")

    def __init__(self, function, handle, stream, device):
        self.function, self.handle, self.stream, self.device = function, handle, stream, device

    def __call__(self, pointer):
        self.settle(self.function(self.handle, pointer, self.stream), pointer)

    def settle(self, status, pointer):
        """After a call that returned the status: makes it again in a thread that is new to CUDA, or raises its error."""
        if status == _lib.Status.NO_DEVICE and _driver.make_current(self.device):
            status = self.function(self.handle, pointer, self.stream)
        _lib._check(status)
