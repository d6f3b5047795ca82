"""Arrays of other libraries, in and out: DLPack (dlpack.h of its version 0), NumPy's and CUDA's array interfaces."""
import ctypes
import weakref

from . import _driver

CPU, CUDA = 1, 2               # DLDeviceType
_FLOAT, _BFLOAT = 2, 4         # DLDataTypeCode
_TYPES = {(_FLOAT, 32): "f32", (_FLOAT, 16): "f16", (_BFLOAT, 16): "bf16"}
_TYPESTRS = {"<f4": "f32", "<f2": "f16", "<V2": "bf16", "|V2": "bf16"}     # bfloat16 as ml_dtypes and plain NumPy show it
BYTES = {"f32": 4, "f16": 2, "bf16": 2}
_LEGACY = 1                    # DLPack's number of CUDA's default stream, which is 0 to the driver


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("index", ctypes.c_int)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device", _Device), ("ndim", ctypes.c_int), ("dtype", _DataType),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
                ("byte_offset", ctypes.c_uint64)]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]
_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_NAME = b"dltensor"            # consumers rename the capsules that they take over


def _capsule_function(name, result, *arguments):
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_is_valid = _capsule_function("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_pointer = _capsule_function("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
# of a capsule that has no references any more, and must get none
_dying_pointer = _capsule_function("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_new_capsule = _capsule_function("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)


# ---- in ----

class View:
    """An array of another library: its address, shape, strides in elements, and owner, which keeps it alive."""

    def __init__(self, address, shape, strides, dtype, device, owner):
        self.address, self.shape, self.strides = address, shape, strides
        self.dtype, self.device, self.owner = dtype, device, owner


def _contiguous(shape):
    strides, step = [], 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return tuple(strides)


def _from_interface(name, interface, device, owner):
    dtype = _TYPESTRS.get(interface["typestr"])
    if dtype is None:
        raise TypeError(f"tda: {name} has elements {interface['typestr']}: they must be float32, float16 or bfloat16")
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    if strides is None:
        strides = _contiguous(shape)
    else:
        if any(s % BYTES[dtype] for s in strides):
            raise ValueError(f"tda: {name} has strides of {strides} bytes: they must be whole elements")
        strides = tuple(s // BYTES[dtype] for s in strides)
    return View(interface["data"][0] or 0, shape, strides, dtype, device, owner)


def _from_capsule(name, capsule):
    managed = ctypes.cast(_pointer(capsule, _NAME), ctypes.POINTER(_Managed)).contents
    t = managed.tensor
    dtype = _TYPES.get((t.dtype.code, t.dtype.bits)) if t.dtype.lanes == 1 else None
    if dtype is None:
        raise TypeError(f"tda: {name} has elements of another type than float32, float16 or bfloat16")
    shape = tuple(t.shape[d] for d in range(t.ndim))
    strides = tuple(t.strides[d] for d in range(t.ndim)) if t.strides else _contiguous(shape)
    # a capsule that nobody took over frees its tensor when it goes: it is the owner
    return View((t.data or 0) + t.byte_offset, shape, strides, dtype, (t.device.type, t.device.index), capsule)


def view(name, x, stream):
    """The View of an array, ready for work on the stream (0: CUDA's default stream)."""
    if hasattr(x, "__array_interface__"):
        return _from_interface(name, x.__array_interface__, (CPU, 0), x)
    if hasattr(x, "__dlpack__"):
        type_, index = x.__dlpack_device__()
        if type_ == CUDA:
            return _from_capsule(name, x.__dlpack__(stream=stream or _LEGACY))
        if type_ == CPU:
            return _from_capsule(name, x.__dlpack__())
        raise TypeError(f"tda: {name} is on a device of DLPack's type {type_}: it must be a CPU or a CUDA GPU")
    if hasattr(x, "__cuda_array_interface__"):
        interface = x.__cuda_array_interface__
        found = _from_interface(name, interface, (CUDA, 0), x)
        producer = interface.get("stream")
        if producer not in (None, stream or _LEGACY):
            with _driver.current(0):
                _driver.wait(stream, 0 if producer == _LEGACY else producer)
        return found
    raise TypeError(f"tda: {name} is a {type(x).__name__}: it must be an array with __dlpack__, __array_interface__ or "
                    "__cuda_array_interface__")


# ---- out ----

_exported = {}                 # what consumers hold: address of the _Managed -> all that must live with it


@_Deleter
def _delete(managed):
    _exported.pop(ctypes.addressof(managed.contents), None)


@_Destructor
def _destroy(capsule):
    if _is_valid(capsule, _NAME):                  # nobody took it over
        _exported.pop(_dying_pointer(capsule, _NAME), None)


class Memory:
    """A block of host or GPU memory. GPU memory is of the stream that it was made on; it is freed when nobody has it."""

    def __init__(self, size, device, stream):
        self.device, self.stream, self.shared = device, stream, False
        if device[0] == CPU:
            self.block = (ctypes.c_char * (size + 256))()
            self.address = -(-ctypes.addressof(self.block) // 256) * 256
        else:
            self.address = _driver.allocate(size, stream)
            weakref.finalize(self, _free, self.address, device[1], stream, shared := [])
            self.shared_mark = shared

    def share(self):
        """Others may use it on streams of their own from now on."""
        if self.device[0] == CUDA:
            self.shared_mark.append(True)


def _free(address, device, stream, shared):
    with _driver.current(device):
        if shared:                                 # waits for the GPU: others' work may still read it
            _driver.call("cuMemFree_v2", address)
        else:
            _driver.call("cuMemFreeAsync", address, stream)


class Array:
    """A result, for numpy.asarray, cupy.from_dlpack, jax.dlpack.from_dlpack, torch.from_dlpack and the like."""

    def __init__(self, shape, dtype, device, stream, strides=None):
        self.shape, self.dtype, self.device, self.stream = tuple(shape), dtype, device, stream
        self.strides = strides or _contiguous(self.shape)
        count = 1
        for size in self.shape:
            count *= size
        self.memory = Memory(count * BYTES[dtype], device, stream)
        self.address = self.memory.address

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if copy or (dl_device is not None and tuple(dl_device) != self.device):
            raise BufferError("tda: results are given as they are, without copies")
        if self.device[0] == CUDA and stream not in (None, -1):
            consumer = 0 if stream == _LEGACY else stream
            if consumer != self.stream:
                with _driver.current(self.device[1]):
                    _driver.wait(consumer, self.stream)
        self.memory.share()
        rank = len(self.shape)
        shape, strides = (ctypes.c_int64 * rank)(*self.shape), (ctypes.c_int64 * rank)(*self.strides)
        code = _BFLOAT if self.dtype == "bf16" else _FLOAT
        dtype = _DataType(code, 8 * BYTES[self.dtype], 1)
        managed = _Managed(_Tensor(self.address, _Device(*self.device), rank, dtype, shape, strides, 0), None, _delete)
        capsule = _new_capsule(ctypes.addressof(managed), _NAME, _destroy)
        _exported[ctypes.addressof(managed)] = (managed, shape, strides, self.memory)
        return capsule

    def _interface(self):
        typestr = next(text for text, dtype in _TYPESTRS.items() if dtype == self.dtype)
        return {"shape": self.shape, "typestr": typestr, "data": (self.address, False), "version": 3,
                "strides": tuple(s * BYTES[self.dtype] for s in self.strides)}

    @property
    def __array_interface__(self):
        if self.device[0] != CPU:
            raise AttributeError("this array is on a GPU")
        return self._interface()

    @property
    def __cuda_array_interface__(self):
        if self.device[0] != CUDA:
            raise AttributeError("this array is on the CPU")
        self.memory.share()
        return {**self._interface(), "stream": self.stream or _LEGACY}
