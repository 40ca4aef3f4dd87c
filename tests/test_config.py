"""Config: validation, round trips, YAML with line numbers, presets and their sources."""

from dataclasses import fields

import pytest

from ddgan_fast.config import ABLATIONS, GROUPS, PRESETS, Config, from_dict, override, preset, to_dict
from ddgan_fast.config_file import read_yaml, write_yaml
from ddgan_fast.errors import InputError
from ddgan_fast.sources import describe, partner


def test_every_setting_has_a_name_of_its_own():
    names = [field.name for group in GROUPS.values() for field in fields(group)]
    assert len(names) == len(set(names)) == len(to_dict(Config())) - 1


@pytest.mark.parametrize("name", PRESETS)
def test_presets_round_trip(name, tmp_path):
    config = PRESETS[name]
    assert config.name == name
    assert from_dict(to_dict(config)) == config
    write_yaml(tmp_path / "config.yaml", config)
    assert read_yaml(tmp_path / "config.yaml", Config()) == config


@pytest.mark.parametrize(
    "values, named",
    [
        ({"stepz": 4}, "did you mean 'steps'"), ({"steps": 0}, "steps = 0"), ({"steps": 4.0}, "whole number"), ({"steps": True}, "whole number"),
        ({"lr_g": float("nan")}, "finite"), ({"lr_g": -1}, "positive"), ({"lr_d": "fast"}, "number"), ({"tanh": 1}, "true or false"),
        ({"network": "vit"}, "'unet' or 'mlp'"), ({"channel_mult": [1, "2"]}, "whole numbers"), ({"channel_mult": []}, "channel_mult"),
        ({"resolution": 30}, "multiple of 8"), ({"resolution": 4, "channel_mult": [1]}, "8 or more"), ({"discriminator": "large"}, "64 or more"),
        ({"channels": 6}, "multiple of 4"), ({"seed": 2**32}, "2\\^32"), ({"batch_size": 0}, "1 or more"), ({"batch_size": 6}, "multiple of 4"), ({"dropout": 1.0}, "dropout"),
        ({"prediction": "x1"}, "'x0' or 'x_t' or 'noise'"), ({"prediction": "noise"}, "tanh = True: it must be false with prediction = 'noise'"),
        ({"prediction": "x_t"}, "tanh = True"), ({"augment_steps": 4}, "steps = 4: it must be 1 with augment_steps = 4"), ({"augment_steps": -1}, "0 to 1000"),
        ({"augment_steps": 4, "steps": 1, "prediction": "noise", "tanh": False}, "prediction = 'noise': it must be 'x0'"),
        ({"lr_g": 10**400}, "finite"), ({"channels": 4 * 10**18}, "1 to 65,536"), ({"blocks": 10**9}, "1 to 64"), ({"mapping_layers": 10**9}, "0 to 64"),
        ({"channel_mult": [1] * 13}, "up to 12 whole numbers"),
        ({"beta_max": 0.05}, "beta_min"), ({"epsilon": 1}, "epsilon"), ({"time_dim": 2}, "time_dim"), ({"ema_decay": 1}, "ema_decay"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(values, named):
    with pytest.raises(ValueError, match=named):
        override(Config(), values)


@pytest.mark.parametrize(
    "text, named",
    [
        ("steps: 2\nbatchsize: 3\n", r":2: unknown setting 'batchsize'; did you mean 'batch_size'"), ("steps: two\n", ":1: steps"),
        ("a: &x 1\nb: *x\n", "aliases"), ("steps: !!python/object:os.system 1\n", "YAML"), ("- 1\n- 2\n", "mapping"), ("steps: [1\n", "YAML"),
        ("lr_g: .nan\n", ":1: lr_g"), ("12: 3\n", ":1: unknown setting 12"),
    ],
)  # fmt: skip
def test_wrong_yaml_names_file_and_line(tmp_path, text, named):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError, match=named) as caught:
        read_yaml(tmp_path / "run.yaml", Config())
    assert "run.yaml" in str(caught.value)


def test_yaml_settings_are_judged_together(tmp_path):
    (tmp_path / "run.yaml").write_text("resolution: 28\nchannel_mult: [1, 2, 2]\nbeta_min: 25\nbeta_max: 40\n")
    config = read_yaml(tmp_path / "run.yaml", preset("cifar10"))
    assert (config.model.resolution, config.diffusion.beta_min) == (28, 25)
    (tmp_path / "run.yaml").write_text("resolution: 30\n")
    with pytest.raises(InputError, match="run.yaml: resolution = 30"):
        read_yaml(tmp_path / "run.yaml", preset("cifar10"))


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "+1.e-4", "1.0e-4", "0.0001"])
def test_yaml_numbers_may_be_written_as_everywhere(tmp_path, text):
    (tmp_path / "run.yaml").write_text(f"lr_g: {text}\n")
    assert read_yaml(tmp_path / "run.yaml", Config()).train.lr_g == 1e-4


def test_text_that_looks_like_a_number_stays_text(tmp_path):
    config = override(Config(), {"data": "1e5"})
    write_yaml(tmp_path / "run.yaml", config)
    assert read_yaml(tmp_path / "run.yaml", Config()) == config


def test_yaml_that_is_missing_binary_or_huge(tmp_path):
    with pytest.raises(InputError, match="nowhere.yaml"):
        read_yaml(tmp_path / "nowhere.yaml", Config())
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary.yaml"):
        read_yaml(tmp_path / "binary.yaml", Config())
    (tmp_path / "huge.yaml").write_text("#" * (1 << 21))
    with pytest.raises(InputError, match="1 MiB"):
        read_yaml(tmp_path / "huge.yaml", Config())
    (tmp_path / "empty.yaml").write_text("")
    assert read_yaml(tmp_path / "empty.yaml", Config()) == Config()


@pytest.mark.parametrize("name", PRESETS)
def test_every_number_of_a_preset_has_a_source(name):
    rows = describe(name)
    assert [row[0] for row in rows] == list(to_dict(PRESETS[name]))[1:]
    assert all(source for _, _, source, _ in rows)


def test_ablations_depart_from_the_paper_in_what_table_2_names():
    paper = to_dict(PRESETS["cifar10-paper"])
    differing = {name: {key for key, value in to_dict(PRESETS[name]).items() if value != paper[key]} - {"name"} for name in ABLATIONS}
    assert differing == {
        "cifar10-t1": {"steps", "iterations"}, "cifar10-t2": {"steps", "iterations"}, "cifar10-t8": {"steps", "iterations"},
        "cifar10-one-shot-aug": {"steps", "augment_steps", "iterations"}, "cifar10-no-latent": {"latent"},
        "cifar10-direct": {"prediction", "tanh"}, "cifar10-noise": {"prediction", "tanh"},
    }  # fmt: skip
    sources = {name: {setting: source for setting, _, source, _ in describe(name)} for name in ("cifar10-paper", *ABLATIONS)}
    for name, settings in differing.items():
        assert {setting for setting, source in sources[name].items() if source != sources["cifar10-paper"][setting]} == settings


def test_a_config_of_before_the_ablations_is_one_of_the_main_model():
    values = to_dict(PRESETS["cifar10-paper"])
    del values["prediction"], values["augment_steps"]
    assert from_dict(values) == PRESETS["cifar10-paper"]


def test_pairs():
    names = ("cifar10", "cifar10-paper", "cifar10-noise", "demo")
    assert [partner(name) for name in names] == ["cifar10-paper", "cifar10", "cifar10-paper", None]
    differing = {setting for setting, value, _, other in describe("cifar10") if value != other}
    assert {"latent_dim", "embedding_dim", "epsilon", "lr_d", "r1_gamma", "r1_every", "batch_size"} <= differing
    with pytest.raises(ValueError, match="did you mean 'celebahq256'"):
        preset("celebahq")
