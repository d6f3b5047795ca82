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
    expect(declared == exported, f"tda.h alone has {sorted(declared - exported)}, libtda.so {sorted(exported - declared)}")
    counting = {"tda_get_count_sizes", "tda_count"}    # which the package has no use for: tdagen explore counts
    expect(declared - counting == set(_lib._FUNCTIONS), f"_lib.py has {sorted(_lib._FUNCTIONS)}")
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


class Rows:
    """One batch entry and head of rows of 8 floats in this process's memory, 16 of them apart."""

    def __init__(self, rows):
        self.memory = (_lib.ctypes.c_float * (16 * len(rows) + 4))()
        address = _lib.ctypes.addressof(self.memory)
        self.first = -address % 16 // 4                    # libtda wants multiples of 16 bytes
        self.tensor = _lib.Tensor(address + 4 * self.first, 0, 0, 16)
        for n, row in enumerate(rows):
            at = self.first + 16 * n
            self.memory[at:at + 8] = row

    def rows(self):
        return [list(self.memory[self.first + at:self.first + at + 8]) for at in range(0, len(self.memory) - 4, 16)]


def test_reference():
    """linear weighs with the score itself: o = (q.k1) v1 + (q.k2) v2, which is small whole numbers here."""
    def ones(*values):
        return [[float(x)] * 8 for x in values]

    def expect_rows(got, wanted, what):
        expect(got.rows() == [[float(x)] * 8 for x in wanted], f"{what} is {got.rows()}")

    q, k, v, grad_o = Rows(ones(1)), Rows(ones(2, 3)), Rows(ones(5, 7)), Rows(ones(1))
    o, dq, dk, dv = Rows(ones(0)), Rows(ones(0)), Rows(ones(0, 0)), Rows(ones(0, 0))
    shape = _lib.Shape(batch=1, heads=1, kv_heads=1, q_len=1, k_len=2)
    forward = _lib.ForwardArgs(shape=shape, v=v.tensor, o=o.tensor)
    backward = _lib.BackwardArgs(shape=shape, v=v.tensor, grad_o=grad_o.tensor, dv=dv.tensor)
    for args in (forward, backward):
        args.q[0], args.k[0] = q.tensor, k.tensor
    backward.dq[0], backward.dk[0] = dq.tensor, dk.tensor
    with _lib.open_file(PTX) as kernel:
        kernel.reference_forward(forward)
        kernel.reference_backward(backward)
        expect_rows(o, [8 * 2 * 5 + 8 * 3 * 7], "o")
        expect_rows(dq, [8 * 5 * 2 + 8 * 7 * 3], "dq")
        expect_rows(dk, [8 * 5, 8 * 7], "dk")
        expect_rows(dv, [8 * 2, 8 * 3], "dv")
        forward.o.row_stride = backward.grad_o.row_stride = 3
        expect_refusal(_lib.Status.BAD_ARGUMENT, "o.row_stride is 3", kernel.reference_forward, forward)
        expect_refusal(_lib.Status.BAD_ARGUMENT, "grad_o.row_stride is 3", kernel.reference_backward, backward)
    expect_refusal(_lib.Status.BAD_ARGUMENT, "kernel: the pointer is null", kernel.reference_forward, forward)


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
run_tests(test_layout, test_functions, test_kernel, test_reference, test_opening, test_finding)
