#!/usr/bin/env python3
"""arrays.py ROOT TDAGEN LIBRARY: forward and backward on NumPy's arrays and on DLPack's, without PyTorch. Needs NumPy."""
import gc
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT, TDAGEN, LIBRARY = sys.argv[1:]
scratch = tempfile.TemporaryDirectory()
os.environ.update(TDA_LIBRARY=LIBRARY, TDAGEN=TDAGEN, TDA_CACHE_DIR=f"{scratch.name}/cache")
sys.path.insert(0, f"{ROOT}/runtime/python")
import tda  # noqa: E402
from tda import _dlpack  # noqa: E402
from testing import expect, run_tests  # noqa: E402

LAYER = 2


class OnlyDlpack:
    """What an array of a library without NumPy's interface shows."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, stream=None):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def arrays():
    """Of tda_layers: [batch, length, heads, dim] in memory."""
    rng = np.random.default_rng(1)

    def tensor(heads, length, dtype="f4"):
        return rng.standard_normal((2, length, heads, 16)).astype(dtype).transpose(0, 2, 1, 3)

    named = {"q1": tensor(4, 20), "q2": tensor(4, 20), "k1": tensor(2, 24), "k2": tensor(2, 24), "v": tensor(2, 24),
             "do": tensor(4, 20)}
    named["beta"] = rng.uniform(0.3, 0.6, (LAYER + 2, 4)).astype("f4")
    named["lambda"] = rng.uniform(0.3, 0.6, LAYER + 2).astype("f4")
    return named


def run(program, x, wrap=lambda a: a):
    y = {name: wrap(array) for name, array in x.items()}
    result = tda.forward(program, q=[y["q1"], y["q2"]], k=[y["k1"], y["k2"]], v=y["v"], beta=y["beta"], lam=y["lambda"],
                         layer=LAYER)
    grads = tda.backward(result, y["do"])
    return {"o": result.o, "dq1": grads.q[0], "dq2": grads.q[1], "dk1": grads.k[0], "dk2": grads.k[1], "dv": grads.v,
            **{f"d{name}": grad for name, grad in grads.params.items()}}


def test_numpy():
    """The results of tdagen run on the same arrays."""
    x = arrays()
    got = run(tda.program("tda_layers", head_dim=16, dtype="f32"), x)
    np.savez(f"{scratch.name}/in.npz", **x)
    subprocess.run([TDAGEN, "run", f"{ROOT}/dsl/specs/tda_layers.lua", "--set", "head_dim=16", "--set", "dtype=f32", "--in",
                    f"{scratch.name}/in.npz", "--out", f"{scratch.name}/out", "--backward", "--layer", str(LAYER),
                    "--device", "reference"], check=True, capture_output=True)
    wanted = {path.stem: np.load(path) for path in pathlib.Path(scratch.name, "out").iterdir()}
    expect(set(got) == set(wanted), f"results {sorted(got)}")
    for name, array in wanted.items():
        expect(type(got[name]) is np.ndarray and np.array_equal(got[name].reshape(-1), array.reshape(-1)), f"{name} differs")
    expect(got["dbeta"].shape == x["beta"].shape and not got["dbeta"][0].any() and got["dbeta"][LAYER].any(), "other layers")


def test_dlpack():
    """The same through DLPack in and out; what was given out lives as long as somebody has it."""
    x = arrays()
    program = tda.program("tda_layers", head_dim=16, dtype="f32")
    wanted, got = run(program, x), run(program, x, OnlyDlpack)
    for name, array in got.items():
        expect(type(array) is _dlpack.Array and array.__dlpack_device__() == (1, 0), f"{name} is a {type(array)}")
        expect(np.array_equal(np.from_dlpack(array), wanted[name]), f"{name} by DLPack")
        expect(np.array_equal(np.asarray(array), wanted[name]), f"{name} by NumPy's interface")
    kept = np.from_dlpack(got["o"])
    capsule = got["dv"].__dlpack__()
    expect(len(_dlpack._exported) == 2, f"{len(_dlpack._exported)} arrays are given out")
    del capsule, got, array
    gc.collect()
    expect(np.array_equal(kept, wanted["o"]) and len(_dlpack._exported) == 1,
           f"an array that is still in use: {len(_dlpack._exported)} are left")
    del kept
    gc.collect()
    expect(not _dlpack._exported, "arrays stay when nobody has them")
    expect(not hasattr(_dlpack.Array((1,), "f32", (1, 0), 0), "__cuda_array_interface__"), "a host array on CUDA")


def test_dtypes():
    """float16, and bfloat16 as ml_dtypes shows it: two bytes."""
    x = arrays()
    wide = run(tda.program("tda_layers", head_dim=16, dtype="f32"), x)
    tensors = ("q1", "q2", "k1", "k2", "v", "do")

    def narrow(dtype, convert):
        program = tda.program("tda_layers", head_dim=16, dtype=dtype)
        return run(program, {name: convert(a) if name in tensors else a for name, a in x.items()})

    half = narrow("f16", lambda a: a.astype("f2"))
    expect(half["o"].dtype == np.float16 and half["dbeta"].dtype == np.float32, "dtypes of f16")
    expect(np.linalg.norm(half["o"] - wide["o"]) < 2e-2 * np.linalg.norm(wide["o"]), "f16 is like f32")

    def bfloat(a):
        return np.ascontiguousarray((np.ascontiguousarray(a).view("u4") >> 16).astype("u2")).view("V2")

    short = narrow("bf16", bfloat)
    bits = np.asarray(short["o"]).view("u2").astype("u4") << 16
    expect(np.linalg.norm(bits.view("f4") - wide["o"]) < 5e-2 * np.linalg.norm(wide["o"]), "bf16 is like f32")


def test_jax():
    """JAX's arrays in and out."""
    try:
        import jax
    except ImportError:
        print("no JAX here: its arrays are left out")
        return
    x = arrays()
    program = tda.program("tda_layers", head_dim=16, dtype="f32")
    wanted, got = run(program, x), run(program, x, jax.numpy.asarray)
    for name, array in got.items():
        expect(np.array_equal(np.asarray(jax.dlpack.from_dlpack(array)), wanted[name]), f"{name} in JAX")


def test_refusals():
    x = arrays()
    program = tda.program("tda_layers", head_dim=16, dtype="f32")

    def refused(words, **changed):
        y = {**x, **changed}
        try:
            run(program, y)
            expect(False, f"{words}: not refused")
        except (TypeError, ValueError, tda.TdaError) as error:
            expect(words in str(error), f"{words}: the message is {error}")

    refused("q[0] has elements <f8", q1=x["q1"].astype("f8"))
    refused("q[1] is f16: it must be f32", q2=x["q2"].astype("f2"))
    refused("k[0] has the shape (2, 2, 23, 16): it must be [2, 2, 24, 16]", k1=x["k1"][:, :, 1:])
    refused("the last dimension of v must be contiguous", v=np.ascontiguousarray(x["v"].swapaxes(2, 3)).swapaxes(2, 3))
    refused("v is a list", v=x["v"].tolist())
    refused("lambda has 3 entries: it must have 4", **{"lambda": x["lambda"][1:]})
    refused("beta has elements <i8", beta=x["beta"].astype("i8"))
    refused("v: the address", v=np.frombuffer(b"\0" * 4 + x["v"].tobytes(), "f4")[1:].reshape(x["v"].shape))
    try:
        tda.forward(program, q=x["q1"], k=x["k1"], v=x["v"])
        expect(False, "one view is not refused")
    except ValueError as error:
        expect("tda_layers has 2 view(s)" in str(error), f"the message is {error}")


expect("torch" not in sys.modules, "PyTorch was imported")
run_tests(test_numpy, test_dlpack, test_dtypes, test_jax, test_refusals)
