#!/usr/bin/env python3
"""binding.py ROOT LIBRARY LAYOUT NM PTX: the ctypes binding against tda.h, libtda.so and a PTX file, without a GPU.

ROOT is the repository, LAYOUT the program of layout.c, PTX the file linear.ptx of tests/runtime.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT, LIBRARY, LAYOUT, NM, PTX = sys.argv[1:]
sys.path.insert(0, f"{ROOT}/runtime/python")
from tda import _lib  # noqa: E402
from testing import expect, run_tests  # noqa: E402

def expect_refusal(status, words, call, *arguments):
    try:
        call(*arguments)
        expect(False, f"{words}: not refused")
    except _lib.TdaError as error:
        expect(error.status == status, f"{words}: refused with {error.status!r}")
        expect(words in error.message and str(error) == error.message, f"{words}: the message is {error.message}")


def printed_by(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")


def test_layout():
    """Every field and constant of tda.h has its like here, of the same size at the same place; and the other way round."""
    want = set(filter(None, printed_by(LAYOUT)))
    got = {f"{name} = {getattr(_lib, name)}" for name in ("ABI_VERSION", "MAX_VIEWS", "MAX_PARAMS")}
    for words in (_lib.Status, _lib.Dtype, _lib.ParamShape):
        got |= {f"{word.name} = {word.value}" for word in words}
    for name in ("param_info", "info", "shape", "sizes", "tensor", "forward_args", "backward_args"):
        struct = getattr(_lib, name.title().replace("_", ""))
        got.add(f"{name} {_lib.ctypes.sizeof(struct)}")
        for field, _ in struct._fields_:
            at = getattr(struct, field)
            got.add(f"{name}.{field} {at.offset} {at.size}")
    expect(want == got, f"tda.h has {sorted(want - got)}, _lib.py {sorted(got - want)}")


def test_functions():
    declared = set(re.findall(r"^TDA_API .*?(tda_\w+)\(", pathlib.Path(ROOT, "runtime/tda.h").read_text(), re.M))
    exported = {line.split()[2] for line in printed_by(NM, "-D", "--defined-only", LIBRARY) if line}
    expect(declared == exported, f"tda.h declares {sorted(declared - exported)}, libtda.so exports {sorted(exported - declared)}")
    expect(declared == set(_lib._FUNCTIONS), f"_lib.py has {sorted(_lib._FUNCTIONS)}")
    for status in _lib.Status:
        words = status.name.lower().replace("_", " ")
        expect(_lib.status_name(status).lower().startswith(words), f"{status!r} is {_lib.status_name(status)}")


def test_kernel():
    with _lib.open_file(PTX) as kernel:
        info = kernel.info()
        expect((info.name, info.target, info.plan) == (b"linear", b"sm_80", b"dense"), f"opened {info.name}")
        expect((info.head_dim, info.views, info.dtype, info.param_count) == (8, 1, _lib.Dtype.F32, 0), "its numbers")
        shape = _lib.Shape(batch=1, heads=2, kv_heads=1, q_len=64, k_len=64)
        sizes = kernel.sizes(shape)
        expect((sizes.saved, sizes.forward_scratch, sizes.backward_scratch) == (0, 0, 0), "linear needs no workspace")
        args = _lib.ForwardArgs(shape=shape)
        expect(args.shape.heads == 2 and args.shape.size == _lib.ctypes.sizeof(shape), "the shape of the arguments")
        expect_refusal(_lib.Status.BAD_ARGUMENT, "q1: the pointer is null", kernel.forward, args)
        shape.kv_heads = 3
        expect_refusal(_lib.Status.BAD_ARGUMENT, "shape.kv_heads is 3", kernel.sizes, shape)
        expect_refusal(_lib.Status.BAD_ARGUMENT, "shape.heads is 0", kernel.backward, _lib.BackwardArgs())
    expect_refusal(_lib.Status.BAD_ARGUMENT, "kernel: the pointer is null", kernel.info)


def test_opening():
    text = pathlib.Path(PTX).read_bytes()
    with _lib.open_memory(text) as kernel:
        expect(kernel.info().name == b"linear", "opened from memory")
    expect_refusal(_lib.Status.BAD_FILE, "", _lib.open_memory, text[:-1])
    expect_refusal(_lib.Status.BAD_FILE, "no such file.ptx", _lib.open_file, "no such file.ptx")


def test_finding():
    """TDA_LIBRARY alone counts where it is set; a file beside _lib.py comes before the build folder."""
    os.environ["TDA_LIBRARY"] = "/nowhere/libtda.so"
    try:
        found = _lib.find_library()
        expect(False, f"found {found} in spite of TDA_LIBRARY")
    except ImportError as error:
        expect("/nowhere/libtda.so" in str(error), f"the message is {error}")
    del os.environ["TDA_LIBRARY"]
    with tempfile.TemporaryDirectory() as folder:
        package = pathlib.Path(folder, "runtime/python/tda")
        built = pathlib.Path(folder, "build/runtime")
        for path in (package, built):
            path.mkdir(parents=True)
        own, _lib.__file__ = _lib.__file__, str(package / "_lib.py")
        (built / "libtda.so").touch()
        expect(_lib.find_library() == (built / "libtda.so").resolve(), "not found in the build folder")
        (package / "libtda.so").touch()
        expect(_lib.find_library() == (package / "libtda.so").resolve(), "not found beside _lib.py")
        _lib.__file__ = own


os.environ["TDA_LIBRARY"] = LIBRARY
_lib.library()
run_tests(test_layout, test_functions, test_kernel, test_opening, test_finding)
