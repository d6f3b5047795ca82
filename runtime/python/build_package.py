"""The build backend of pyproject.toml (PEP 517): writes the wheel of tda with nothing but Python's own library."""
import base64
import hashlib
import os
import pathlib
import re
import sysconfig
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLATFORM = re.sub(r"\W", "_", sysconfig.get_platform())
DESCRIPTION = "Threshold attentions compiled by tdagen, for PyTorch and for other arrays"


def version():
    return re.search(r"project\(tdagen VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text())[1]


def build_folder():
    return pathlib.Path(os.environ.get("TDA_BUILD") or ROOT / "build")


def package_files():
    """{name in the wheel: file}"""
    files = {f"tda/{path.name}": path for path in sorted((HERE / "tda").glob("*.py"))}
    files.update({f"tda/specs/{path.name}": path for path in sorted((ROOT / "dsl/specs").glob("*.lua"))})
    files["tda/LICENSE.TXT"] = ROOT / "LICENSE.TXT"
    for name, path in (("libtda.so", build_folder() / "runtime/libtda.so"), ("tdagen", build_folder() / "tdagen")):
        if path.is_file():
            files[f"tda/{name}"] = path.resolve()
    return files


def _write_wheel(folder, files, native):
    tag = f"py3-none-{PLATFORM if native else 'any'}"
    name, info = f"tda-{version()}-{tag}.whl", f"tda-{version()}.dist-info"
    written = []

    def add(wheel, at, data, mode):
        entry = zipfile.ZipInfo(at, (1980, 1, 1, 0, 0, 0))
        entry.external_attr = (0o100000 | mode) << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        wheel.writestr(entry, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        written.append(f"{at},sha256={digest},{len(data)}\n")

    with zipfile.ZipFile(pathlib.Path(folder, name), "w", compresslevel=1) as wheel:
        for at, data in files.items():
            if isinstance(data, pathlib.Path):
                mode, data = data.stat().st_mode & 0o777, data.read_bytes()
            else:
                mode, data = 0o644, data.encode()
            add(wheel, at, data, mode)
        add(wheel, f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tda\nVersion: {version()}\nSummary: {DESCRIPTION}\n"
            "License: Apache-2.0 WITH LLVM-exception\nRequires-Python: >=3.9\n".encode(), 0o644)
        add(wheel, f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: tda\nRoot-Is-Purelib: {str(not native).lower()}\n"
            f"Tag: {tag}\n".encode(), 0o644)
        wheel.writestr(f"{info}/RECORD", "".join(written) + f"{info}/RECORD,,\n")
    return name


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    files = package_files()
    return _write_wheel(wheel_directory, files, "tda/libtda.so" in files or "tda/tdagen" in files)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """pip install -e: the checkout itself, with what its build folder holds."""
    return _write_wheel(wheel_directory, {"tda.pth": f"{HERE}\n"}, False)


def build_sdist(sdist_directory, config_settings=None):
    raise NotImplementedError("tda is built from a checkout of tdagen: there is no source archive of it")
