"""The few functions of the CUDA driver that arrays without a framework of their own need."""
import contextlib
import ctypes

_SIGNATURES = {
    "cuInit": [ctypes.c_uint],
    "cuCtxGetCurrent": [ctypes.POINTER(ctypes.c_void_p)],
    "cuCtxSetCurrent": [ctypes.c_void_p],
    "cuCtxPushCurrent_v2": [ctypes.c_void_p],
    "cuCtxPopCurrent_v2": [ctypes.POINTER(ctypes.c_void_p)],
    "cuDevicePrimaryCtxRetain": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int],
    "cuMemAllocAsync": [ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t, ctypes.c_void_p],
    "cuMemFreeAsync": [ctypes.c_uint64, ctypes.c_void_p],
    "cuMemFree_v2": [ctypes.c_uint64],
    "cuEventCreate": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint],
    "cuEventRecord": [ctypes.c_void_p, ctypes.c_void_p],
    "cuStreamWaitEvent": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint],
    "cuEventDestroy_v2": [ctypes.c_void_p],
}
_NO_TIMING = 2                 # of CUevent_flags

_driver = None
_primary = {}                  # contexts by device, held for the life of the process


def _open():
    global _driver
    if _driver is None:
        opened = ctypes.CDLL("libcuda.so.1")
        for name, arguments in _SIGNATURES.items():
            if hasattr(opened, name):              # cuMemAllocAsync is of CUDA 11.2
                getattr(opened, name).argtypes = arguments
        _driver = opened
        call("cuInit", 0)
    return _driver


def call(name, *arguments):
    """One of the above; raises RuntimeError with its number when it fails."""
    result = getattr(_open(), name)(*arguments)
    if result:
        raise RuntimeError(f"tda: {name} failed with CUDA error {result}")


def primary_context(device):
    if device not in _primary:
        context = ctypes.c_void_p()
        call("cuDevicePrimaryCtxRetain", context, device)
        _primary[device] = context
    return _primary[device]


def make_current(device):
    """Threads that have not called CUDA yet have no current context: they get the device's primary one, as CUDA's own
    runtime would give them. False where there is none, or where the thread has one."""
    try:
        current = ctypes.c_void_p()
        _open()
        call("cuCtxGetCurrent", current)
        if current.value:
            return False
        call("cuCtxSetCurrent", primary_context(device))
        return True
    except (OSError, RuntimeError):
        return False


@contextlib.contextmanager
def current(device):
    """The device's primary context, current in a block."""
    _open()
    call("cuCtxPushCurrent_v2", primary_context(device))
    try:
        yield
    finally:
        call("cuCtxPopCurrent_v2", ctypes.c_void_p())


def allocate(size, stream):
    address = ctypes.c_uint64()
    call("cuMemAllocAsync", address, max(size, 1), stream)
    return address.value


def wait(waiting, other):
    """What is enqueued on one stream from now on waits for what is on the other."""
    event = ctypes.c_void_p()
    call("cuEventCreate", event, _NO_TIMING)
    try:
        call("cuEventRecord", event, other)
        call("cuStreamWaitEvent", waiting, event, 0)
    finally:
        call("cuEventDestroy_v2", event)
