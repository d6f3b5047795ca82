"""Tests of what tdagen prints. Run by CTest, or: lit -D build=BUILD_FOLDER lit"""

import os
import shutil

import lit.formats

config.name = "tdagen"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".test", ".lua"]
config.excludes = ["Inputs"]
config.test_source_root = os.path.dirname(__file__)

build = lit_config.params.get("build", os.path.join(config.test_source_root, "..", "build"))
build = os.path.abspath(build)
config.test_exec_root = os.path.join(build, "lit", "output")

specs = os.path.abspath(os.path.join(config.test_source_root, "..", "dsl", "specs"))
config.substitutions.append(("%tdagen", os.path.join(build, "tdagen")))
config.substitutions.append(("%tdarun", os.path.join(build, "tdarun")))
config.substitutions.append(("%specs", specs))
config.substitutions.append(("%root", os.path.abspath(os.path.join(config.test_source_root, ".."))))

llvm_tools = lit_config.params.get("llvm_tools", "/usr/lib/llvm-22/bin")
config.environment["PATH"] = os.pathsep.join([llvm_tools, os.environ["PATH"]])
for name in ("CUDA_HOME", "CUDA_PATH", "ASAN_OPTIONS", "LSAN_OPTIONS"):
    if name in os.environ:
        config.environment[name] = os.environ[name]


def has_ptxas():
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    return shutil.which("ptxas") or any(r and os.path.exists(os.path.join(r, "bin", "ptxas")) for r in roots)


if has_ptxas():
    config.available_features.add("ptxas")
if lit_config.params.get("sanitized"):
    config.available_features.add("sanitized")
