"""libtda through ctypes: the structs and functions of runtime/tda.h, which says what they mean. Needs no PyTorch.

    kernel = tda._lib.open_file("tda.ptx")
    info = kernel.info()
    args = tda._lib.ForwardArgs()
    ... fill in args.shape, args.q[0] = Tensor(address, strides...), ...
    kernel.forward(args, stream)

Structs are made with their size and version filled in. Addresses are of device memory, as integers; whoever calls keeps
that memory alive. A call that does not return TDA_OK raises TdaError.
"""
import ctypes
import enum
import os
import pathlib

ABI_VERSION = 1
MAX_VIEWS = 4
MAX_PARAMS = 16


class Status(enum.IntEnum):
    OK = 0
    BAD_ARGUMENT = 1
    BAD_FILE = 2
    NO_DRIVER = 3
    NO_DEVICE = 4
    WRONG_DEVICE = 5
    OUT_OF_MEMORY = 6
    CUDA_ERROR = 7
    UNSUPPORTED = 8
    INTERNAL = 9


class Dtype(enum.IntEnum):
    F32 = 0
    F16 = 1
    BF16 = 2


class ParamShape(enum.IntEnum):
    SCALAR = 0
    PER_HEAD = 1
    PER_LAYER = 2
    PER_LAYER_HEAD = 3
    PER_CHANNEL = 4


class TdaError(Exception):
    """A call of libtda was refused or failed: `status` is a Status, `message` libtda's own words."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = Status(status)
        self.message = message


class _Sized(ctypes.Structure):
    """A struct that begins with its size and version."""

    def __init__(self, **fields):
        super().__init__(size=ctypes.sizeof(self), version=ABI_VERSION, **fields)


_HEADER = [("size", ctypes.c_uint32), ("version", ctypes.c_uint32)]


class ParamInfo(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("shape", ctypes.c_int), ("init", ctypes.c_double), ("min", ctypes.c_double),
                ("max", ctypes.c_double)]


class Info(_Sized):
    """Strings are bytes, and live as long as the kernel."""
    _fields_ = _HEADER + [
        ("name", ctypes.c_char_p), ("spec_hash", ctypes.c_char_p), ("compiler", ctypes.c_char_p),
        ("target", ctypes.c_char_p), ("plan", ctypes.c_char_p), ("dtype", ctypes.c_int), ("tf32", ctypes.c_int),
        ("head_dim", ctypes.c_int), ("value_dim", ctypes.c_int), ("views", ctypes.c_int),
        ("l2_normalized", ctypes.c_int), ("causal", ctypes.c_int), ("window", ctypes.c_int64), ("rms_norm", ctypes.c_int),
        ("zeros_proved", ctypes.c_int), ("forward_tolerance", ctypes.c_double), ("backward_tolerance", ctypes.c_double),
        ("param_count", ctypes.c_int), ("params", ParamInfo * MAX_PARAMS)]


class Shape(_Sized):
    _fields_ = _HEADER + [
        ("batch", ctypes.c_int64), ("heads", ctypes.c_int64), ("kv_heads", ctypes.c_int64), ("q_len", ctypes.c_int64),
        ("k_len", ctypes.c_int64), ("layer", ctypes.c_int32), ("layers", ctypes.c_int32), ("q_lens", ctypes.c_void_p),
        ("k_lens", ctypes.c_void_p), ("q_offsets", ctypes.c_void_p), ("k_offsets", ctypes.c_void_p)]


class Sizes(_Sized):
    _fields_ = _HEADER + [("saved", ctypes.c_size_t), ("forward_scratch", ctypes.c_size_t),
                          ("backward_scratch", ctypes.c_size_t)]


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("batch_stride", ctypes.c_int64), ("head_stride", ctypes.c_int64),
                ("row_stride", ctypes.c_int64)]


_Views = Tensor * MAX_VIEWS
_Params = ctypes.c_void_p * MAX_PARAMS
_SAVED_AND_SCRATCH = [("saved", ctypes.c_void_p), ("saved_bytes", ctypes.c_size_t), ("scratch", ctypes.c_void_p),
                      ("scratch_bytes", ctypes.c_size_t)]


class _Args(_Sized):
    """Arguments of a launch, whose shape is made with its own size and version."""

    def __init__(self, **fields):
        super().__init__(**{"shape": Shape(), **fields})


class ForwardArgs(_Args):
    _fields_ = _HEADER + [("shape", Shape), ("q", _Views), ("k", _Views), ("v", Tensor), ("o", Tensor),
                          ("params", _Params)] + _SAVED_AND_SCRATCH


class BackwardArgs(_Args):
    _fields_ = _HEADER + [("shape", Shape), ("q", _Views), ("k", _Views), ("v", Tensor), ("grad_o", Tensor),
                          ("dq", _Views), ("dk", _Views), ("dv", Tensor), ("params", _Params),
                          ("dparams", _Params)] + _SAVED_AND_SCRATCH


# ---- the library ----

_KERNEL = ctypes.c_void_p
_FUNCTIONS = {
    "tda_error_message": (ctypes.c_char_p, []),
    "tda_status_name": (ctypes.c_char_p, [ctypes.c_int]),
    "tda_open_file": (ctypes.c_int, [ctypes.c_char_p, ctypes.POINTER(_KERNEL)]),
    "tda_open_memory": (ctypes.c_int, [ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(_KERNEL)]),
    "tda_close": (None, [_KERNEL]),
    "tda_get_info": (ctypes.c_int, [_KERNEL, ctypes.POINTER(Info)]),
    "tda_get_sizes": (ctypes.c_int, [_KERNEL, ctypes.POINTER(Shape), ctypes.POINTER(Sizes)]),
    "tda_forward": (ctypes.c_int, [_KERNEL, ctypes.POINTER(ForwardArgs), ctypes.c_void_p]),
    "tda_backward": (ctypes.c_int, [_KERNEL, ctypes.POINTER(BackwardArgs), ctypes.c_void_p]),
    "tda_preload": (ctypes.c_int, [_KERNEL]),
    "tda_reference_forward": (ctypes.c_int, [_KERNEL, ctypes.POINTER(ForwardArgs)]),
    "tda_reference_backward": (ctypes.c_int, [_KERNEL, ctypes.POINTER(BackwardArgs)]),
}


def find_library():
    """TDA_LIBRARY, which must then exist; else beside this file; else where a checkout builds it."""
    named = os.environ.get("TDA_LIBRARY")
    here = pathlib.Path(__file__).resolve().parent
    candidates = [pathlib.Path(named)] if named else [
        folder / name for folder in (here, here.parents[2] / "build" / "runtime") for name in ("libtda.so", "libtda.so.0")]
    for path in candidates:
        if path.is_file():
            return path
    looked = ", ".join(str(path) for path in candidates)
    raise ImportError(f"libtda.so is not found; looked for {looked}. Build it (cmake --build build --target tda_shared), or "
                      "set TDA_LIBRARY to its path")


_loaded = None


def library():
    """libtda as a ctypes.CDLL, loaded by the first call."""
    global _loaded
    if _loaded is None:
        opened = ctypes.CDLL(str(find_library()))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(opened, name)
            function.restype, function.argtypes = result, arguments
        _loaded = opened
    return _loaded


def status_name(status):
    return library().tda_status_name(status).decode()


def _check(status):
    if status:
        raise TdaError(status, library().tda_error_message().decode(errors="replace"))


class Kernel:
    """An open PTX file, closed by close() or at the end of a `with`; made by open_file and open_memory."""

    def __init__(self, handle):
        self._handle = handle

    def close(self):
        if self._handle:
            library().tda_close(self._handle)
            self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def info(self):
        info = Info()
        _check(library().tda_get_info(self._handle, info))
        return info

    def sizes(self, shape):
        sizes = Sizes()
        _check(library().tda_get_sizes(self._handle, shape, sizes))
        return sizes

    def forward(self, args, stream=None):
        """stream: a CUstream as an integer; None is the default stream."""
        _check(library().tda_forward(self._handle, args, stream))

    def backward(self, args, stream=None):
        _check(library().tda_backward(self._handle, args, stream))

    def reference_forward(self, args):
        """Addresses are of host memory here and in reference_backward."""
        _check(library().tda_reference_forward(self._handle, args))

    def reference_backward(self, args):
        _check(library().tda_reference_backward(self._handle, args))

    def preload(self):
        _check(library().tda_preload(self._handle))


def open_file(path):
    handle = _KERNEL()
    _check(library().tda_open_file(os.fsencode(path), handle))
    return Kernel(handle)


def open_memory(ptx):
    """ptx: bytes, which are copied."""
    handle = _KERNEL()
    _check(library().tda_open_memory(ptx, len(ptx), handle))
    return Kernel(handle)
