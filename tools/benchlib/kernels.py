"""Our kernels: PTX files that are there, or that tdagen compiles on the spot."""
import concurrent.futures
import pathlib
import shutil
import subprocess

from tda import _lib

from .sweep import Kernel

ROOT = pathlib.Path(__file__).resolve().parents[2]


def find_tdagen(given):
    """A path, or None."""
    built = ROOT / "build" / "tdagen"
    return given or (str(built) if built.is_file() else shutil.which("tdagen"))


def variants(options):
    """(name, arguments of tdagen) of what the sweep can use."""
    for spec in options.specs:
        for dtype in options.dtypes:
            for precision in (options.precisions if dtype == "f32" else ("",)):
                for dim in options.dims:
                    for plan in options.plans:
                        for target in options.targets:
                            settings = [f"dtype={dtype}", f"head_dim={dim}"] + [f"precision={precision}"] * bool(precision)
                            name = "-".join(filter(None, (spec, dtype, precision, str(dim), plan, target)))
                            yield name, [str(ROOT / "dsl" / "specs" / f"{spec}.lua"), "--plan", plan, "--target", target,
                                         *(word for setting in settings for word in ("--set", setting))]


def compile_all(tdagen, options, folder):
    """Compiles every variant into the folder. Returns a line for each reason that tdagen refuses some for."""
    def compile_one(variant):
        name, arguments = variant
        result = subprocess.run([tdagen, *arguments, "-o", f"{folder}/{name}.ptx"], capture_output=True, text=True)
        first = (result.stderr.strip().splitlines() or ["refused"])[0]
        return name, first.partition("error: ")[2] or first if result.returncode else None

    reasons = {}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for name, reason in pool.map(compile_one, variants(options)):
            if reason:
                reasons.setdefault(reason, []).append(name)
    return [f"{', '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''}: {reason}"
            for reason, names in reasons.items()]


def runs_on(target, capability):
    """capability: as "9.0"; a target that ends in "a" runs on its own chip alone."""
    have, least = int(capability.replace(".", "")), int(target[len("sm_"):].rstrip("a"))
    return have == least if target.endswith("a") else have >= least


def refusal(info, capability):
    """Why a kernel is none of those that are measured here, or None."""
    target = info.target.decode()
    if not runs_on(target, capability):
        return f"it is for {target}, this GPU has compute capability {capability}"
    names = {info.params[n].name for n in range(info.param_count)}
    if info.name.decode().split("_")[0] not in ("tda", "tra") or not names <= {b"beta", b"lambda"}:
        return "not of the specs tda or tra"
    if info.head_dim != info.value_dim or not info.causal or info.window or info.rms_norm or not info.l2_normalized:
        return "its value_dim, mask, normalisation or output is not that of tda"
    if info.dtype not in (_lib.Dtype.F32, _lib.Dtype.BF16):
        return "its dtype is neither f32 nor bf16"
    return None


def open_all(folder, capability):
    """(kernels, a line for each file that is left out)."""
    kernels, left_out = [], []
    for path in sorted(pathlib.Path(folder).glob("*.ptx")):
        try:
            handle = _lib.open_file(path)
        except _lib.TdaError as error:
            left_out.append(str(error))
            continue
        info = handle.info()
        why = refusal(info, capability)
        if why:
            left_out.append(f"{path}: {why}")
            handle.close()
            continue
        f32 = info.dtype == _lib.Dtype.F32
        kernels.append(Kernel(handle, info, info.name.decode(), info.plan.decode(), info.target.decode(),
                              "f32" if f32 else "bf16", ("tf32" if info.tf32 else "ieee") if f32 else "", info.head_dim))
    return kernels, left_out
