#!/usr/bin/env python3
"""readme.py ROOT TDAGEN LIBRARY KIND: the README's Python prints what it says there.

Blocks after <!-- python --> (KIND torch) or <!-- python numpy --> (KIND numpy) run one after the other, in one process;
what they print is compared with the block after <!-- printed by the blocks above -->.
"""
import contextlib
import io
import os
import pathlib
import re
import sys
import tempfile
import warnings

ROOT, TDAGEN, LIBRARY, KIND = sys.argv[1:]
scratch = tempfile.TemporaryDirectory()
os.environ.update(TDA_LIBRARY=LIBRARY, TDAGEN=TDAGEN, TDA_CACHE_DIR=f"{scratch.name}/cache")
sys.path.insert(0, f"{ROOT}/runtime/python")
from testing import expect, run_tests  # noqa: E402


def test_readme():
    os.chdir(ROOT)
    warnings.filterwarnings("ignore", message="tda: tensors on the CPU")
    mark = {"torch": "python", "numpy": "python numpy"}[KIND]
    text = pathlib.Path("README.md").read_text()
    blocks = re.findall(r"<!-- (python|python numpy|printed by the blocks above) -->\n```\w*\n(.*?)```", text, re.S)
    printed, names, last = io.StringIO(), {}, None
    for kind, block in blocks:
        if kind == mark:
            with contextlib.redirect_stdout(printed):
                exec(compile(block, "README.md", "exec"), names)
        elif kind.startswith("printed") and last == mark:
            expect(printed.getvalue() == block, f"printed:\n{printed.getvalue()}the README says:\n{block}")
            printed = io.StringIO()
        last = kind
    expect(printed.getvalue() == "", f"printed, which the README does not say: {printed.getvalue()}")


run_tests(test_readme)
