"""Every preset has its recipe in examples/recipes, which says the same."""

from pathlib import Path

import pytest

from ddgan_fast.config import PRESETS, Config, preset
from ddgan_fast.config_file import read_yaml, write_yaml

RECIPES = Path(__file__).parents[1] / "examples/recipes"


def test_there_is_a_recipe_for_each_preset_and_no_other():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_is_its_preset(tmp_path, name):
    path = RECIPES / f"{name}.yaml"
    assert read_yaml(path, Config()) == PRESETS[name]
    text = path.read_text(encoding="utf-8")
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert f"--config examples/recipes/{name}.yaml" in header
    write_yaml(tmp_path / "config.yaml", PRESETS[name])
    assert text == header + (tmp_path / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((RECIPES.parent / "experiments").iterdir()), ids=lambda path: path.stem)
def test_settings_of_experiments_are_read(path):
    config = read_yaml(path, preset("demo"))
    assert config.diffusion.steps == 4 and config.train.data
    assert f"--config examples/experiments/{path.name}" in path.read_text()
