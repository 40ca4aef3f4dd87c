"""The declarations of torch's C ABI do not drift, the sources compile for every GPU architecture without spills, and a library
that does not fit is refused with the reason."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddgan_fast.ops import extension

ROOT = Path(__file__).parents[2]
INCLUDE = Path(torch.__file__).parent / "include"
needs = {name: pytest.mark.skipif(shutil.which(name) is None, reason=f"no {name} here") for name in ("g++", "cmake", "nvcc")}


@needs["g++"]
@pytest.mark.parametrize("order", [1, -1])
def test_the_abi_is_that_of_torch(tmp_path, order):
    """A changed signature is an error of the compiler, in either order of the declarations."""
    includes = ["#include <torch/csrc/stable/c/shim.h>", '#include "torch_abi.h"'][::order]
    (tmp_path / "both.cpp").write_text("\n".join(includes))
    command = ["g++", "-std=c++20", "-fsyntax-only", "-Wall", "-Werror", f"-I{INCLUDE}", f"-I{ROOT / 'csrc'}", str(tmp_path / "both.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    changed = (ROOT / "csrc/torch_abi.h").read_text().replace("int64_t grain_size", "int32_t grain_size")
    (tmp_path / "torch_abi.h").write_text(changed)
    done = subprocess.run([*command[:-2], f"-I{tmp_path}", command[-1]], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "torch_parallel_for" in done.stderr


@needs["g++"]
def test_every_function_is_in_the_oldest_torch(tmp_path):
    """Torch's headers, told to offer what 2.11 has."""
    names = re.findall(r"^(?:AOTITorchError|int32_t) (\w+)\(", (ROOT / "csrc/torch_abi.h").read_text(), re.M)
    assert len(names) > 20
    lines = ["#include <torch/csrc/stable/c/shim.h>", *(f"auto* const p{i} = &{name};" for i, name in enumerate(names))]
    (tmp_path / "all.cpp").write_text("\n".join(lines))
    command = ["g++", "-std=c++20", "-fsyntax-only", "-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{INCLUDE}", str(tmp_path / "all.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs["cmake"]
@needs["nvcc"]
@pytest.mark.timeout(900)
def test_cuda_compiles_for_every_architecture_without_spills(tmp_path):
    """Warnings are errors here; ptxas reports registers and spills of each kernel."""
    for command in (["-S", ROOT, "-B", tmp_path, "-DDDGAN_CUDA=ON", "-DDDGAN_WERROR=ON"], ["--build", tmp_path, "--target", "_cuda"]):
        done = subprocess.run(["cmake", *map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    report = done.stdout + done.stderr
    found = re.findall(r"Compiling entry function '(\S+)' for 'sm_(\d+)'", report)
    assert {architecture for _, architecture in found} == {"80", "90", "100", "120"}
    assert len(found) == 4 * len({kernel for kernel, _ in found}) >= 4 * 40
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert len(spills) >= len(found) and set(spills) == {("0", "0", "0")}


def test_a_package_that_was_never_built(tmp_path):
    assert re.match(r"_C.so was never built; rebuild: pip install .*", extension.load("_C.so", "CPU", tmp_path))


def test_the_reason_of_the_build_is_told(tmp_path):
    (tmp_path / "_build.json").write_text('{"_C.so": "cmake was not found at the build"}')
    assert extension.load("_C.so", "CPU", tmp_path) == "cmake was not found at the build"


@pytest.mark.cpp
def test_a_library_of_another_version_is_not_loaded(tmp_path):
    library = (extension.PACKAGE / "_C.so").read_bytes()
    (tmp_path / "_C.so").write_bytes(library.replace(extension.ABI, extension.ABI.replace(b"abi", b"ABI")))
    reason = extension.load("_C.so", "CPU", tmp_path)
    assert re.search(r"_C.so was built for another version of ddgan_fast; rebuild: pip install", reason)


@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF" + bytes(100)])
def test_a_file_that_this_machine_cannot_load(tmp_path, content):
    (tmp_path / "_C.so").write_bytes(content + extension.ABI)
    reason = extension.load("_C.so", "CPU", tmp_path)
    assert re.search(r"_C.so does not fit torch .* or this machine \(.*\); rebuild: pip install", reason, re.S)


@needs["g++"]
def test_a_library_that_needs_another_torch(tmp_path):
    """A function that this torch has not got is a refusal, not a crash."""
    source = 'extern "C" { int torch_of_tomorrow(); int call() { return torch_of_tomorrow(); }\n' + (
        f'__attribute__((used)) const char abi[] = "{extension.ABI.decode()}"; }}'
    )
    (tmp_path / "c.cpp").write_text(source)
    subprocess.run(["g++", "-shared", "-fPIC", str(tmp_path / "c.cpp"), "-o", str(tmp_path / "_C.so")], check=True)
    assert "torch_of_tomorrow" in extension.load("_C.so", "CPU", tmp_path)


@needs["g++"]
def test_a_library_that_registers_nothing(tmp_path):
    """As when another copy has registered the ops, or torch refuses a schema."""
    (tmp_path / "c.cpp").write_text(f'extern "C" {{ __attribute__((used)) extern const char abi[] = "{extension.ABI.decode()}"; }}')
    subprocess.run(["g++", "-shared", "-fPIC", str(tmp_path / "c.cpp"), "-o", str(tmp_path / "_C.so")], check=True)
    program = "from pathlib import Path\nimport ddgan_fast.ops.extension as e\n" + (
        f"e.OPS = ('no_such_op',)\nprint(e.load('_C.so', 'CPU', Path({str(tmp_path)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "left out no_such_op" in done.stdout


@pytest.mark.cpp
def test_two_copies_do_not_end_the_process(tmp_path):
    shutil.copy(extension.PACKAGE / "_C.so", tmp_path / "copy.so")
    program = f"import torch\nfrom ddgan_fast.ops import extension\ntorch.ops.load_library({str(tmp_path / 'copy.so')!r})\nprint('alive')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "alive" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "capability, serves",
    [((8, 0), True), ((8, 9), True), ((9, 0), True), ((10, 3), True), ((12, 0), True), ((13, 0), True), ((7, 5), False), ((11, 0), False)],
)
def test_gpus_that_the_cuda_part_has_code_for(monkeypatch, capability, serves):
    monkeypatch.setattr(extension, "ARCHITECTURES", [80, 90, 100, 120])
    properties = type("Properties", (), dict(zip(("major", "minor"), capability, strict=True)))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    reason = extension.gpu_refuses(0)
    assert (reason is None) == serves
    if not serves:
        here = capability[0] * 10 + capability[1]
        assert f"_cuda.so was built for sm_80, 90, 100, 120, and the GPU is sm_{here}; rebuild" in reason
