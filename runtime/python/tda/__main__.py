"""python -m tda ARGUMENT...: the tdagen that the package uses, as in `python -m tda cache list`."""
import os
import sys

from . import _cache

try:
    compiler = _cache.find_compiler()
except RuntimeError as error:
    sys.exit(str(error))
os.execv(compiler, ["tdagen", *sys.argv[1:]])
