#!/usr/bin/env python3
"""launches.py ROOT TDAGEN LIBRARY FAKE_CUDA: what the package asks of a GPU, on a driver that runs nothing.

Libtda checks every argument as for a GPU: addresses, strides, sizes of workspaces. PyTorch's part runs where PyTorch is.
"""
import contextlib
import ctypes
import gc
import io
import os
import sys
import tempfile
import threading
import time

ROOT, TDAGEN, LIBRARY, FAKE_CUDA = sys.argv[1:]
scratch = tempfile.TemporaryDirectory()
os.environ.update(TDA_LIBRARY=LIBRARY, TDAGEN=TDAGEN, TDA_CACHE_DIR=f"{scratch.name}/cache")
sys.path.insert(0, f"{ROOT}/runtime/python")
import tda  # noqa: E402
from tda import _dlpack, _driver, _lib, _progress  # noqa: E402
from testing import expect, run_tests  # noqa: E402

STREAM, OTHER = 0x1230, 0x4560
SPECS = "tda", "tda_rmsnorm", "tda_layers", "tra"


class FakeCuda(ctypes.Structure):
    """Of tests/runtime/fake_cuda.h, as far as it is looked at."""
    _fields_ = [("set", ctypes.c_int * 6), ("context_id", ctypes.c_ulonglong * 3), ("loads", ctypes.c_int),
                ("unloads", ctypes.c_int), ("launches", ctypes.c_int), ("forbidden", ctypes.c_int),
                ("shared_bytes", ctypes.c_int), ("grid", ctypes.c_uint), ("block", ctypes.c_uint),
                ("stream", ctypes.c_void_p), ("blocks", ctypes.c_int), ("waits", ctypes.c_int)]


# libtda and the package open libcuda.so.1 by that name, which is this library's from here on
driver = ctypes.CDLL(FAKE_CUDA, mode=ctypes.RTLD_GLOBAL)
driver.fake_cuda.restype = ctypes.POINTER(FakeCuda)
fake = driver.fake_cuda().contents


def launches_of(program, phase):
    """With lengths as short as here: the dense plan's."""
    return sum(words[0] == phase and not words[1].startswith("tda_sparse_") for words in program.manifest["kernel"])


def expect_launches(what, wanted, stream, call):
    """One phase's kernels, on the stream, with nothing that waits."""
    before, forbidden = fake.launches, fake.forbidden
    result = call()
    expect(fake.launches - before == wanted, f"{what}: {fake.launches - before} launches, not {wanted}")
    expect(fake.stream == stream, f"{what}: on stream {fake.stream}")
    expect(fake.forbidden == forbidden, f"{what}: called what it must not")
    return result


def device_array(*shape, dtype="bf16"):
    with _driver.current(0):
        return _dlpack.Array(shape, dtype, (_dlpack.CUDA, 0), STREAM)


def test_arrays():
    """Arrays on a GPU: launches on the named stream, memory by the stream, and waiting for others' streams."""
    for spec in SPECS:
        program = tda.program(spec, head_dim=32)
        q = [device_array(2, 4, 65, 32) for _ in range(program.views)]
        k = [device_array(2, 2, 70, 32) for _ in range(program.views)]
        v, grad_o = device_array(2, 2, 70, 32), device_array(2, 4, 65, 32)
        params = {p.name: device_array(program.param_length(p, 4, 1), dtype="f32") for p in program.params}
        held = fake.blocks
        result = expect_launches(f"{spec}, forward", launches_of(program, "forward"), STREAM,
                                 lambda: tda.forward(program, q=q, k=k, v=v, stream=STREAM, **params))
        expect(fake.blocks - held == 2, f"{spec}: a forward keeps {fake.blocks - held} blocks, not o and saved")
        grads = expect_launches(f"{spec}, backward", launches_of(program, "backward"), STREAM,
                                lambda: tda.backward(result, grad_o))
        expect(sorted(grads.params) == sorted(params) and grads.q[0].__dlpack_device__() == (2, 0), f"{spec}: its gradients")
        del result, grads
        gc.collect()
        expect(fake.blocks == held, f"{spec}: {fake.blocks - held} blocks are left")
    with_other = fake.waits
    forbidden = fake.forbidden
    capsule = v.__dlpack__(stream=OTHER)
    expect(fake.waits == with_other + 1 and fake.stream == OTHER, "the consumer's stream does not wait")
    v.__dlpack__(stream=STREAM)
    expect(fake.waits == with_other + 1, "a stream waits for itself")
    expect(v.__cuda_array_interface__["stream"] == STREAM, "the stream of the array interface")
    calls = fake.forbidden - forbidden
    del capsule, v
    gc.collect()
    expect(fake.forbidden == forbidden + calls + 1, "memory that others had is freed without waiting for the GPU")


def test_loading():
    """The first launch on a GPU tells when it takes long, no other does."""
    program = tda.program("tra", head_dim=16)
    usual, _progress.SLOW_S = _progress.SLOW_S, 0.05
    said = []
    for _ in range(2):
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            program.telling(lambda _: time.sleep(0.2), 0)(None)
        said.append(stderr.getvalue())
    _progress.SLOW_S = usual
    expect(said == ["tda: loading the kernels of tra into GPU 0 ...\n", ""], f"said {said}")


def test_pytorch():
    """PyTorch's way to the same launches, with CPU tensors in the place of a GPU's: workspaces of the right sizes, every
    stride and address as libtda wants it, in threads without a context too."""
    try:
        import torch
    except ImportError:
        print("no PyTorch here: its launches are left out")
        return
    from tda import _torch

    class GpuPlan(_torch._TorchPlan):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            sizes = self.program.sizes(self.shape)
            self.saved_bytes, self.forward_scratch = sizes.saved, sizes.forward_scratch
            self.backward_scratch = sizes.backward_scratch
            self.device = torch.device("cpu", 0)
            self.run_on_gpu(0)

        def work(self, size):
            block = torch.empty(size + 256, dtype=torch.uint8)
            return block[-block.data_ptr() % 256:][:size]

    _torch._TorchPlan = GpuPlan
    torch._C._cuda_getDevice, torch._C._cuda_getCurrentRawStream = (lambda: 0), (lambda index: OTHER)

    def call(attn, q, k, v, params):
        program = attn.program
        o = expect_launches(f"{program.name}, forward", launches_of(program, "forward"), OTHER,
                            lambda: attn(q=q, k=k, v=v, **params))
        expect_launches(f"{program.name}, backward", launches_of(program, "backward"), OTHER,
                        lambda: torch.autograd.grad(o.sum(), [*q, *k, v, *params.values()]))

    for spec in SPECS:
        attn = tda.compile(spec, head_dim=32)
        heads = [torch.randn(2, 65, n, 32, dtype=torch.bfloat16).transpose(1, 2).requires_grad_() for n in (4, 4, 2, 2, 2)]
        params = {p.name: torch.rand(attn.program.param_length(p, 4, 1), requires_grad=True) for p in attn.params}
        views = attn.views
        arguments = attn, heads[:views], heads[2:2 + views], heads[4], params
        driver.fake_cuda_set_current(-1)
        call(*arguments)
        thread = threading.Thread(target=call, args=arguments)
        thread.start()
        thread.join()
    expect(fake.loads == len(SPECS), f"kernels were loaded {fake.loads} times")


run_tests(test_arrays, test_loading, test_pytorch)
