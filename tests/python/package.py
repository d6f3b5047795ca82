#!/usr/bin/env python3
"""package.py ROOT TDAGEN LIBRARY: compiling specs through the cache, and installing the package. Needs Python alone."""
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import zipfile

ROOT, TDAGEN, LIBRARY = sys.argv[1:]
scratch = tempfile.TemporaryDirectory()
CACHE = pathlib.Path(scratch.name, "cache")
os.environ.update(TDA_LIBRARY=LIBRARY, TDAGEN=TDAGEN, TDA_CACHE_DIR=str(CACHE))
sys.path[:0] = [f"{ROOT}/runtime/python"]
import tda  # noqa: E402
from tda import _cache, _program  # noqa: E402
from testing import expect, run_tests  # noqa: E402

# So narrow a window has the dense plan alone, which compiles in a fifth of the time.
SPEC = """return attention { name = "one", head_dim = option("head_dim", 8), mask = window(64),
  threshold = function(c) return option("t", 0.5) end, weight = function(s, tau) return relu(s - tau) end }"""


COUNTING = """import time; from tda import _progress
with _progress.shown("sleeping"): time.sleep(2.5)
with _progress.shown("a moment"): pass"""


def stems():
    return {path.stem for path, _, _ in _cache.entries()}


def python(code, **environment):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{ROOT}/runtime/python", **environment})


def command(*words):
    """tdagen cache WORD"""
    return subprocess.run([TDAGEN, "cache", *words], capture_output=True, text=True)


def without_compiler(call):
    """A compilation shows: there is a compiler that says its version, and compiles nothing."""
    fake = pathlib.Path(scratch.name, "tdagen")
    fake.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec "{TDAGEN}" --version\necho compiled >&2\nexit 1\n')
    fake.chmod(0o755)
    real = os.stat(TDAGEN)
    identity, _cache._compiler_identity = _cache._compiler_identity, lambda _: _compiler
    os.environ["TDAGEN"] = str(fake)
    _compiler = identity(TDAGEN)
    try:
        return call()
    finally:
        os.environ["TDAGEN"], _cache._compiler_identity = TDAGEN, identity
        expect(os.stat(TDAGEN).st_mtime_ns == real.st_mtime_ns, "tdagen was touched")


def refuse(*_):
    raise PermissionError("not yours")


def test_keys():
    """What changes the PTX changes the key; a file's name and the order of options don't."""
    path = pathlib.Path(scratch.name, "other name.lua")
    path.write_text(SPEC)
    first = _cache.compiled(SPEC, {"head_dim": 16, "t": 0.25})
    expect(first == _cache.compiled(path, {"t": 0.25, "head_dim": 16}), "the same spec, from a file")
    others = [_cache.compiled(SPEC, {"head_dim": 16}), _cache.compiled(SPEC + " ", {"head_dim": 16, "t": 0.25}),
              _cache.compiled(SPEC, {"head_dim": 16, "t": 0.25}, "sm_80")]
    keys = {first[1], *(key for _, key in others)}
    expect(len(keys) == 4 and stems() == keys, f"keys {keys}")
    again = without_compiler(lambda: _cache.compiled(SPEC, {"head_dim": 16, "t": 0.25}))
    expect(again == first, "a warm start compiles nothing")
    real, os.utime = os.utime, refuse
    again = without_compiler(lambda: _cache.compiled(SPEC, {"head_dim": 16, "t": 0.25}))
    os.utime = real
    expect(again == first, "a warm start from a cache that can't be written")
    program = tda.program(SPEC, head_dim=16, t=0.25)
    expect(program.head_dim == 16 and _program.find(first[1]) is program, "the program by its key")
    clone = pathlib.Path(scratch.name, "clone")
    clone.write_text(f'#!/bin/sh\nexec "{TDAGEN}" "$@"\n')
    clone.chmod(0o755)
    os.environ["TDAGEN"] = str(clone)
    expect(_cache.compiled(SPEC, {"head_dim": 16, "t": 0.25})[1] not in keys, "another build of the compiler")
    os.environ["TDAGEN"] = TDAGEN


def test_damage():
    """A damaged entry is no entry; verify finds it."""
    ptx, key = _cache.compiled(SPEC, {"t": 0.75})
    path = CACHE / f"{key}.ptx"
    path.write_bytes(ptx[:-100])
    verified = command("verify")
    expect(verified.returncode == 1 and f"damaged, removed: {path}" in verified.stdout,
           f"verify says {verified.stdout}{verified.stderr}")
    path.write_bytes(ptx[:-100])
    expect(_cache.read(key) is None and _cache.compiled(SPEC, {"t": 0.75}) == (ptx, key), "compiled anew")
    expect(path.read_bytes() == ptx, "and written anew")
    expect(_cache.read("../" + key) is None, "a key that is a path")


def test_bound():
    """The entries used last stay, and the newest in any case."""
    size = len(_cache.compiled(SPEC, {})[0])
    for path, _, _ in _cache.entries():
        _cache.remove(path)
    os.environ["TDA_CACHE_BYTES"] = str(3 * size + size // 2)
    keys = []
    for n in range(6):
        keys.append(_cache.compiled(SPEC, {"t": n})[1])
        os.utime(CACHE / f"{keys[-1]}.ptx", (1000 + n, 1000 + n))
        if n == 4:
            _cache.read(keys[2])                                   # used after all others
    expect(stems() == {keys[2], keys[4], keys[5]}, f"left {[keys.index(key) for key in stems() if key in keys]}")
    os.environ["TDA_CACHE_BYTES"] = "1"
    last = _cache.compiled(SPEC, {"t": 7})[1]
    expect(stems() == {last}, "an entry larger than the cache")
    del os.environ["TDA_CACHE_BYTES"]
    old, new = CACHE / f"{last}.old.tmp", CACHE / f"{last}.new.tmp"
    for path in (old, new):
        path.write_text("half of an entry")
    os.utime(old, (1000, 1000))
    _cache.compiled(SPEC, {"t": 8})
    expect(new.exists() and not old.exists(), "what a killed process left stays, or what another one writes goes")
    new.unlink()
    expect({path.suffix for path in CACHE.iterdir()} <= {".ptx", ".lock"}, f"left behind: {sorted(CACHE.iterdir())}")


def test_processes():
    """Many at once: one compiles, all have the same."""
    log = pathlib.Path(scratch.name, "log")
    counting = pathlib.Path(scratch.name, "counting")
    counting.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo x >>"{log}"\nexec "{TDAGEN}" "$@"\n')
    counting.chmod(0o755)
    code = f"import tda; print(tda.program({SPEC!r}, t=0.125).key)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/runtime/python", "TDAGEN": str(counting)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
                 for _ in range(6)]
    keys = {process.communicate()[0] for process in processes}
    expect(len(keys) == 1 and keys.pop().startswith("tda-"), "keys of processes")
    expect(log.read_text() == "x\n", f"compiled {log.read_text().count('x')} times")
    nowhere = python(f"import tda; print(tda.program({SPEC!r}).name)", TDA_CACHE_DIR="/proc/nowhere")
    expect(nowhere.stdout == "one\n", f"a folder that can't be written: {nowhere.stderr}")


def test_messages():
    slow = pathlib.Path(scratch.name, "slow")
    slow.write_text(f'#!/bin/sh\n[ "$1" = --version ] || sleep 0.3\nexec "{TDAGEN}" "$@"\n')
    slow.chmod(0o755)
    code = f"import tda; from tda import _progress; _progress.SLOW_S = 0.1; tda.program({SPEC!r}, t=0.0625)"
    said = python(code, TDAGEN=str(slow)).stderr
    expect(said == "tda: compiling a spec --set t=0.0625 ...\n", f"a slow compilation says {said}")
    bad = pathlib.Path(scratch.name, "bad.lua")
    bad.write_text(SPEC.replace("relu", "rellu"))
    for spec, words in ((bad, f"{bad}:2:"), (bad.read_text(), "spec.lua:2:")):
        try:
            tda.program(spec)
            expect(False, "a bad spec is compiled")
        except tda.CompileError as error:
            expect(words in str(error) and "^" in str(error), f"the message is {error}")
    missing = python("import tda; tda.program('tda')", TDAGEN="/nowhere/tdagen").stderr
    expect("tdagen is not found; looked for /nowhere/tdagen" in missing, f"the message is {missing}")
    expect(tda.program("tda", head_dim=8).name == "tda", "a spec that comes along, by name")


def test_terminal():
    try:
        terminal, name = os.openpty()
    except OSError as error:
        print(f"what a terminal is told is not tested: this machine has no pseudo-terminals ({error})")
        return
    subprocess.run([sys.executable, "-c", COUNTING], stderr=name, check=True,
                   env={**os.environ, "PYTHONPATH": f"{ROOT}/runtime/python"})
    said = os.read(terminal, 1000).decode()
    expect(said == "tda: sleeping ...\rtda: sleeping ... 2 s\r\n", f"on a terminal it says {said!r}")


def test_wheel():
    """What pip installs: the package with libtda.so, tdagen and the specs, found from there alone."""
    sys.path.insert(0, f"{ROOT}/runtime/python")
    import build_package
    built, site = pathlib.Path(scratch.name, "built"), pathlib.Path(scratch.name, "site")
    (built / "runtime").mkdir(parents=True)
    (built / "runtime/libtda.so").symlink_to(LIBRARY)
    (built / "tdagen").symlink_to(TDAGEN)
    os.environ["TDA_BUILD"] = str(built)
    name = build_package.build_wheel(scratch.name)
    expect(name.endswith(f"-py3-none-{build_package.PLATFORM}.whl"), f"the wheel is {name}")
    with zipfile.ZipFile(pathlib.Path(scratch.name, name)) as wheel:
        for entry in wheel.infolist():
            pathlib.Path(wheel.extract(entry, site)).chmod(stat.S_IMODE(entry.external_attr >> 16))
        record = next(wheel.read(path).decode() for path in wheel.namelist() if path.endswith("RECORD"))
        expect({line.split(",")[0] for line in record.splitlines()} == set(wheel.namelist()), "RECORD lists the files")
    code = "import tda; print(tda._lib.find_library()); print(tda.program('tra').name)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=scratch.name,
                           env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "TDA_CACHE_DIR": str(CACHE)})
    expect(found.stdout == f"{site}/tda/libtda.so\ntra\n", f"installed: {found.stdout}{found.stderr}")
    os.environ["TDA_BUILD"] = "/nowhere"
    expect(build_package.build_wheel(scratch.name).endswith("-none-any.whl"), "a wheel without programs")


def test_clear():
    """tdagen cache sees what the package wrote, and nothing else."""
    before = stems()
    other = CACHE / "tda-notes.ptx"
    other.write_text("not of the cache")
    (CACHE / f"{next(iter(before))}.x.tmp").write_text("half of an entry")
    latest = _cache.entries()[0][0].stem
    listed, verified, cleared = (command(word) for word in ("list", "verify", "clear"))
    expect(before and all(stem in listed.stdout for stem in before) and listed.stdout.startswith(latest),
           f"listed {listed.stdout}")
    expect(verified.returncode == 0 and f"{len(before)} entries" in verified.stdout and ", 0 damaged" in verified.stdout,
           f"verified {verified.stdout}")
    expect(f"{len(before)} entries" in cleared.stdout and "removed" in cleared.stdout, f"printed {cleared.stdout}")
    expect(list(CACHE.iterdir()) == [other], f"clear leaves {list(CACHE.iterdir())}")
    other.unlink()


def test_command():
    """Where the folder is, and what else may be asked for."""
    environment = {"TDA_CACHE_DIR": "", "XDG_CACHE_HOME": f"{scratch.name}/xdg", "HOME": f"{scratch.name}/home"}
    for name, folder in (("TDA_CACHE_DIR", CACHE), ("XDG_CACHE_HOME", f"{scratch.name}/xdg/tdagen"),
                         ("HOME", f"{scratch.name}/home/.cache/tdagen")):
        found = {**os.environ, **environment, "TDA_CACHE_DIR": str(CACHE)} if name == "TDA_CACHE_DIR" else \
            {**os.environ, **environment}
        said = subprocess.run([TDAGEN, "cache", "list"], capture_output=True, text=True, env=found).stdout
        ours = python("from tda import _cache; print(_cache.folder())", **found).stdout
        expect(said == f"{folder}: 0 entries, 0 bytes\n" and ours == f"{folder}\n", f"by {name}: {said}{ours}")
        environment[name] = ""
    for words in ((), ("lsit",), ("list", "all")):
        refused = command(*words)
        expect(refused.returncode == 2 and "tdagen cache list|verify|clear" in refused.stderr, f"{words}: {refused}")
    no_folder = subprocess.run([TDAGEN, "cache", "list"], capture_output=True, text=True,
                               env={**os.environ, "TDA_CACHE_DIR": __file__})
    expect(no_folder.returncode == 1 and f"cannot read the folder {__file__}" in no_folder.stderr, f"a file: {no_folder}")
    module = subprocess.run([sys.executable, "-m", "tda", "cache", "list"], capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": f"{ROOT}/runtime/python"})
    expect(module.stdout == command("list").stdout, f"python -m tda: {module}")


run_tests(test_keys, test_damage, test_bound, test_processes, test_messages, test_terminal, test_wheel, test_clear, test_command)
