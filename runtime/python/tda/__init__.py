"""tda: threshold attentions compiled by tdagen, for PyTorch and for other arrays.

    attn = tda.compile("spec.lua", head_dim=128, dtype="bf16")
    o = attn(q=[q1, q2], k=[k1, k2], v=v, beta=beta, lam=lam, layer=3)

PyTorch is imported by the first compile, load, reference or tda.nn.
"""
import importlib
import pathlib

from ._lib import Status, TdaError

__all__ = ["compile", "load", "program", "reference", "forward", "backward", "nn", "CompileError", "Status", "TdaError"]


def shipped(spec):
    """The path of a spec that comes along, for its bare name: "tda". Anything else stays as it is."""
    if isinstance(spec, str) and spec.isidentifier():
        here = pathlib.Path(__file__).resolve().parent
        for folder in (here / "specs", here.parents[2] / "dsl" / "specs"):
            if (folder / f"{spec}.lua").is_file():
                return folder / f"{spec}.lua"
    return spec


def program(spec, *, target=None, plan=None, **settings):
    """A compiled spec for tda.forward and tda.backward; needs no PyTorch.

    spec: the path of a Lua file, the text of one, or the name of one that comes along ("tda"). settings are the spec's
    options, as --set of tdagen gives them (head_dim=128, dtype="bf16"); target and plan are tdagen's. Compiled at the
    first call, and kept in the cache folder (TDA_CACHE_DIR) for the next program.
    """
    from . import _cache, _program
    ptx, key = _cache.compiled(shipped(spec), settings, target, plan)
    return _program.register(ptx, key)


def compile(spec, *, target=None, plan=None, **settings):
    """The same as a function on PyTorch's tensors, an Attention.

    Without a target it is that of the current GPU: "sm_90a" for an H100 and its like, "sm_80" elsewhere.
    """
    from ._torch import Attention, current_target
    return Attention(program(spec, target=target or current_target(), plan=plan, **settings))


def load(path):
    """An Attention of a PTX file that tdagen wrote; needs no compiler."""
    from . import _program
    from ._torch import Attention
    return Attention(_program.register(pathlib.Path(path).read_bytes()))


def __getattr__(name):
    if name == "reference":
        return importlib.import_module("._reference", __name__).reference
    if name in ("forward", "backward"):
        return getattr(importlib.import_module("._arrays", __name__), name)
    if name == "CompileError":
        return importlib.import_module("._cache", __name__).CompileError
    if name == "nn":
        return importlib.import_module(".nn", __name__)
    raise AttributeError(f"module tda has no {name}")
