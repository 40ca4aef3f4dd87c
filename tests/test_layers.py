"""Imports point one way (design.md section 1), are absolute, and the package alone loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = [
    {"settings"},
    {"config", "errors", "kernels", "noise"},
    {"config_file", "distributed", "precision", "sources", "pictures", "ops"},
    {"models"},
    {"diffusion"},
    {"checkpoint"},
    {"data", "training", "sampling", "engines", "evaluation"},
    {"pipeline", "environment"},
    {"bench", "experiments", "serving", "report", "diffusers"},
    {"cli_arguments"},
    {"cli_data", "cli_demo", "cli_edit", "cli_eval", "cli_export", "cli_figures", "cli_report", "cli_serve", "cli_show"},
    {"cli_tables"},
    {"cli_experiment"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
FILES = sorted(
    path.relative_to(ROOT / "ddgan_fast")
    for path in (ROOT / "ddgan_fast").rglob("*.py")
    if path.name != "__init__.py" or path.parent.name != "ddgan_fast"
)


def imports(path):
    """(part of ddgan_fast that is imported, line) for each import of the file; relative ones fail."""
    for node in ast.walk(ast.parse((ROOT / "ddgan_fast" / path).read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            if node.module == "ddgan_fast":
                yield from ((alias.name, node.lineno) for alias in node.names if alias.name in RANK)
            elif node.module.startswith("ddgan_fast."):
                yield node.module.split(".")[1], node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[1], node.lineno) for alias in node.names if alias.name.startswith("ddgan_fast."))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_one_way(path):
    here = path.parts[0].removesuffix(".py")
    for there, line in imports(path):
        assert there == here or RANK[there] < RANK[here], f"{path}:{line}: {here} imports {there}"


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").rglob("*.py")), ids=lambda path: path.name)
def test_kernels_import_torch_triton_and_each_other_alone(path):
    tree = ast.parse(path.read_text())
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    outside = {module.split(".")[0] for module in modules if not module.startswith("ddgan_fast.kernels.")}
    assert outside <= {"torch", "triton", "math"}


def loaded_by(program):
    """Top-level modules that a fresh Python has loaded after `program`."""
    command = [sys.executable, "-c", f"{program}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_the_package_alone_is_light():
    assert not loaded_by("import ddgan_fast") & {"torch", "numpy", "triton", "tensorrt", "nvidia", "tyro"}


def test_the_pipeline_loads_no_extra():
    loaded = loaded_by("from ddgan_fast import DDGANPipeline\nimport torch\nassert not torch.cuda.is_initialized()")
    assert "torch" in loaded
    assert not loaded & {"triton", "tensorrt", "nvidia", "onnx", "sklearn", "fontTools", "torchvision", "gradio"}


def test_help_does_not_import_torch():
    loaded = loaded_by("from ddgan_fast.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass")
    assert "tyro" in loaded and "torch" not in loaded
