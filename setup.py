"""Packages of the wheel, and the extension: CMake builds csrc/ in a temporary folder, or one line says why it was not built.

DDGAN_EXT: 0 builds nothing, 1 makes a missing CPU part an error; DDGAN_CUDA: 0 builds no CUDA part, 1 makes a missing one an error.
Building needs no torch. What was built, and why a part is missing, goes to ddgan_fast/_build.json, which `ddgan env` shows.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
PACKAGES = find_packages(include=["ddgan_fast", "ddgan_fast.*"])
# ddgan_fast/kernels is a link to kernels/; where links become text files (Windows, zip) the folder itself is packed
LINKED = (ROOT / "ddgan_fast/kernels").is_dir()
PARTS = {"_C.so": "DDGAN_EXT", "_cuda.so": "DDGAN_CUDA"}


def run(*command):
    """Why the command failed, or None."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    print(done.stdout)
    if done.returncode == 0:
        return None
    text = " ".join(done.stdout.split())
    wanted = (
        r'The \S+ compiler "[^"]*" is not able to compile',
        r"Could not find compiler .{,100}",
        r"\berror: .{,120}",
        r"CMake Error: .{,120}",
    )
    found = next(filter(None, (re.search(pattern, text) for pattern in wanted)), None)
    return found[0] if found else f"{' '.join(command[:2])} gave exit code {done.returncode}"


def refusal(part):
    """Why a part is not even tried, or None."""
    if os.environ.get(PARTS[part], "auto") == "0":
        return f"{PARTS[part]}=0 was set at the build"
    if not sys.platform.startswith("linux"):
        return f"it is built on Linux alone, not on {sys.platform}"
    if shutil.which("cmake") is None:
        return "cmake was not found at the build"
    if part == "_cuda.so" and shutil.which(os.environ.get("CUDACXX", "nvcc")) is None and not Path("/usr/local/cuda/bin/nvcc").exists():
        return "nvcc was not found at the build"
    return None


class CMakeBuild(build_ext):
    """The parts that this machine can build, and _build.json."""

    def run(self):
        package = ROOT / "ddgan_fast" if self.inplace else Path(self.build_lib).resolve() / "ddgan_fast"
        package.mkdir(parents=True, exist_ok=True)
        for name in (*PARTS, "_build.json"):
            (package / name).unlink(missing_ok=True)  # an older one would pass for what this build gave
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for part in PARTS:
                missing = (
                    "the CPU part is missing" if found.get("_C.so") else refusal(part) or self.compile(part, Path(folder) / part, package)
                )
                found[part] = missing
                print(f"ddgan_fast: {part} was {f'not built: {missing}' if missing else 'built'}")
                if missing and os.environ.get(PARTS[part]) == "1":
                    raise SystemExit(f"{PARTS[part]}=1 asks for {part}, which cannot be built: {missing}")
            architectures = Path(folder) / "_cuda.so/architectures.txt"
            found["architectures"] = architectures.read_text().split(";") if found["_cuda.so"] is None else []
        (package / "_build.json").write_text(json.dumps(found, indent=1) + "\n")

    def compile(self, part, folder, package):
        """Why the part could not be built, or None; then it is in the package."""
        cuda = "ON" if part == "_cuda.so" else "OFF"
        strict = "ON" if os.environ.get("DDGAN_EXT") == "1" else "OFF"
        missing = run("cmake", "-S", str(ROOT), "-B", str(folder), f"-DDDGAN_CUDA={cuda}", f"-DDDGAN_WERROR={strict}") or run(
            "cmake", "--build", str(folder), "--target", part.removesuffix(".so")
        )
        if missing is None:
            shutil.copy(folder / part, package / part)
        return missing

    def get_outputs(self):
        return [str(path) for path in Path(self.build_lib).glob("ddgan_fast/_[Ccb]*") if path.suffix in (".so", ".json")]

    def get_output_mapping(self):
        return {}


class AnyPython(bdist_wheel):
    """The libraries hold no Python: one wheel for every version."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    version=re.search(r'__version__ = "(.+?)"', (ROOT / "ddgan_fast/__init__.py").read_text())[1],
    packages=sorted({*PACKAGES, "ddgan_fast.kernels"}),
    package_dir={} if LINKED else {"ddgan_fast": "ddgan_fast", "ddgan_fast.kernels": "kernels"},
    ext_modules=[Extension("ddgan_fast._C", [])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": AnyPython},
)
