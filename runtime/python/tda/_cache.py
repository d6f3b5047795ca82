"""Specs compiled by tdagen, and kept on disk.

An entry is KEY.ptx in the cache folder: TDA_CACHE_DIR, else tdagen in XDG_CACHE_HOME or ~/.cache. KEY is a digest of the
spec's text, the options, the compiler and the target. A file appears whole or not at all, and of many processes that start
at once one compiles while the others wait. The entries used last stay, up to TDA_CACHE_BYTES (256 MiB).

`tdagen cache` (compiler/main_cache.c) lists, verifies and clears what lies there, by these names: KEY.ptx, KEY.lock, and
KEY.*.tmp while an entry is written.
"""
import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

from . import _lib, _progress

FORMAT = "tda 1"
KEY = re.compile(r"tda-[0-9a-f]{64}")
LEFT_S = 24 * 3600            # no process compiles for that long


class CompileError(Exception):
    """tdagen refused a spec; the message is its own, with line and caret."""


def folder():
    named = os.environ.get("TDA_CACHE_DIR")
    if named:
        return pathlib.Path(named)
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tdagen"


def limit():
    return int(os.environ.get("TDA_CACHE_BYTES", 256 << 20))


def find_compiler():
    """TDAGEN, which must then exist; else beside this file; else where a checkout builds it; else on the PATH."""
    named = os.environ.get("TDAGEN")
    here = pathlib.Path(__file__).resolve().parent
    on_path = shutil.which("tdagen")
    candidates = [pathlib.Path(named)] if named else [
        here / "tdagen", here.parents[2] / "build" / "tdagen", *([pathlib.Path(on_path)] if on_path else [])]
    for path in candidates:
        if path.is_file():
            return path
    looked = ", ".join(map(str, candidates))
    raise RuntimeError(f"tdagen is not found; looked for {looked}. Build it (cmake --build build --target tdagen), set "
                       "TDAGEN to its path, or open a compiled file with tda.load")


def _compiler_identity(compiler):
    """Changes with every build: compilers under development keep their version."""
    status = os.stat(compiler)
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    return f"{version.strip()} {status.st_size} {status.st_mtime_ns}"


def key_of(text, arguments, compiler):
    digest = hashlib.sha256()
    for part in (FORMAT, _compiler_identity(compiler), *arguments, text):
        data = part if isinstance(part, bytes) else part.encode()
        digest.update(b"%d:" % len(data) + data)
    return "tda-" + digest.hexdigest()


def _path(key):
    return folder() / f"{key}.ptx"


def read(key):
    """The PTX of a key; None where the cache has none that is whole."""
    if not KEY.fullmatch(key):
        return None
    try:
        ptx = _path(key).read_bytes()
        _lib.open_memory(ptx).close()              # checks the digest in it
    except (OSError, _lib.TdaError):
        return None
    with contextlib.suppress(OSError):             # a cache of somebody else's may be read all the same
        os.utime(_path(key))                       # used just now
    return ptx


def _write(key, ptx):
    """A cache that can't be written is none: the program runs all the same."""
    with contextlib.suppress(OSError):
        folder().mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder(), prefix=f"{key}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(ptx)
            os.replace(name, _path(key))
        except OSError:
            os.unlink(name)
            raise
        _trim(keep=_path(key))


def entries():
    """[(path, bytes, time of last use)], the latest first."""
    found = []
    with contextlib.suppress(OSError):
        for path in folder().glob("tda-*.ptx"):
            if not KEY.fullmatch(path.stem):
                continue
            with contextlib.suppress(OSError):     # another process may have removed it
                status = path.stat()
                found.append((path, status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: -entry[2])


def _trim(keep):
    """Back to the limit; and what processes left behind that were killed while they compiled."""
    for path in (*folder().glob("tda-*.tmp"), *folder().glob("tda-*.lock")):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - LEFT_S:
                path.unlink()
    total = 0
    for path, size, _ in entries():
        total += size
        if total > limit() and path != keep:
            remove(path)


def remove(path):
    for name in (path, path.with_suffix(".lock")):
        with contextlib.suppress(OSError):
            name.unlink()


@contextlib.contextmanager
def _alone(key):
    """One process at a time for a key. Where files can't be locked, several compile the same."""
    lock = None
    with contextlib.suppress(OSError):
        folder().mkdir(parents=True, exist_ok=True)
        lock = open(_path(key).with_suffix(".lock"), "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if lock:
            lock.close()


def _compile(compiler, spec, text, arguments):
    with tempfile.TemporaryDirectory() as scratch:
        if spec is None:
            spec = pathlib.Path(scratch, "spec.lua")
            spec.write_bytes(text)
        output = pathlib.Path(scratch, "kernel.ptx")
        command = [str(compiler), str(spec), *arguments, "-o", str(output)]
        process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if process.returncode:
            raise CompileError(process.stdout.strip())
        return output.read_bytes()


def compiled(spec, settings, target=None, plan=None):
    """(PTX, key) of a spec: the path of a file, or the text of one."""
    path = None if "\n" in str(spec) else pathlib.Path(spec)
    text = path.read_bytes() if path else spec.encode()
    compiler = find_compiler()
    arguments = [word for name in sorted(settings) for word in ("--set", f"{name}={_value(settings[name])}")]
    arguments += [word for option, value in (("--target", target), ("--plan", plan)) if value for word in (option, value)]
    key = key_of(text, arguments, compiler)
    ptx = read(key)
    if ptx is None:
        what = f"compiling {path or 'a spec'} {' '.join(arguments)}".strip()
        with _progress.shown(what), _alone(key):       # waiting for another process that compiles it is shown too
            ptx = read(key)
            if ptx is None:
                ptx = _compile(compiler, path, text, arguments)
                _write(key, ptx)
    return ptx, key


def _value(value):
    return str(value).lower() if isinstance(value, bool) else str(value)
