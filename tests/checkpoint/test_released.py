"""Conversion of released .pth files: what they hold, what is refused, and that nothing is left behind."""

import argparse
import os
from pathlib import Path

import pytest
import torch

from ddgan_fast.checkpoint import load_reference_discriminator
from ddgan_fast.checkpoint.model import load_model, save_model
from ddgan_fast.checkpoint.released import convert, read_pth
from ddgan_fast.config import preset
from ddgan_fast.errors import CheckpointError, InputError

FOLDER = os.path.join(os.path.dirname(__file__), "..", "golden")
NET_G, CONTENT = (os.path.join(FOLDER, f"L_checkpoint_{name}.pth") for name in ("netG_0", "content"))


@pytest.mark.parametrize("file, raw, expected", [(NET_G, False, "netG_y"), (CONTENT, False, "netG_y"), (CONTENT, True, "content_netG_y")])
def test_weights_give_the_reference_output(golden, assert_near, tmp_path, file, raw, expected):
    g = golden("L_checkpoint_expected")
    generator, config = convert(file, options=g.config if file == NET_G else None, raw=raw)
    save_model(tmp_path / "model", generator, config)
    generator, _ = load_model(tmp_path / "model")
    assert_near(generator(g["in/x"], g["in/t"], g["in/z"]), g[f"out/{expected}"], 2e-5)


def test_what_the_training_script_adds_to_its_own_options_is_not_read(golden, tmp_path, caplog):
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(CONTENT, weights_only=True)
    content["args"].world_size = 8
    torch.save(content, tmp_path / "content.pth")
    assert convert(tmp_path / "content.pth")[1] == convert(CONTENT)[1]
    assert "content.pth: world_size in its options: not read" in caplog.text
    with pytest.raises(InputError, match="unknown option 'world_size'"):
        convert(NET_G, options=golden("L_checkpoint_expected").config | {"world_size": 8})


def test_discriminator_of_content(golden, assert_near):
    g = golden("L_checkpoint_expected")
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(CONTENT, weights_only=True)
    discriminator = load_reference_discriminator(content["netD_dict"], vars(content["args"]))
    assert_near(discriminator(g["in/D_x"], g["in/D_t"], g["in/D_x_tp1"]), g["out/content_netD_logits"], 2e-5)


def changed(tmp_path, change):
    state = torch.load(NET_G, weights_only=True)
    change(state)
    torch.save(state, tmp_path / "changed.pth")
    return tmp_path / "changed.pth"


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda s: s.pop("module.all_modules.2.bias"), r"all_modules.2.bias: missing, should be \[4\]"),
        (lambda s: s.update({"module.new.weight": torch.zeros(3)}), r"new.weight: unknown, \[3\]"),
        (lambda s: s.update({"module.all_modules.2.bias": torch.zeros(5)}), r"all_modules.2.bias: \[5\], should be \[4\]"),
        (lambda s: s["module.all_modules.2.bias"].fill_(torch.nan), "NaN or infinity in all_modules.2.bias: the file is damaged"),
        (lambda s: s.update({"module.all_modules.2.bias": "text"}), "no weight"),
        (lambda s: s.clear(), "no weights"),
    ],
    ids=["missing", "extra", "misshapen", "not finite", "text", "empty"],
)
def test_wrong_keys_are_named(golden, tmp_path, change, named):
    with pytest.raises(CheckpointError, match=named):
        convert(changed(tmp_path, change), options=golden("L_checkpoint_expected").config)


def test_another_architecture_names_the_preset_that_fits(tmp_path):
    model = preset("tiny").model
    from ddgan_fast.checkpoint.reference import generator_keys, to_ours
    from ddgan_fast.models import Generator

    generator = Generator(model)
    keys = generator_keys(generator)
    torch.save({f"module.{keys[n]}": to_ours(keys[n], p.detach()) for n, p in generator.named_parameters()}, tmp_path / "tiny.pth")
    for name in ("cifar10", "cifar10-no-latent"):
        with pytest.raises(CheckpointError, match="presets that fit: tiny$"):
            convert(tmp_path / "tiny.pth", config=preset(name))


def test_truncated_and_foreign_files(tmp_path):
    whole = Path(NET_G).read_bytes()
    for name, data in (("half", whole[: len(whole) // 2]), ("empty", b""), ("text", b"hello"), ("zeros", bytes(1000))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=name):
            read_pth(tmp_path / name)
    with pytest.raises(CheckpointError, match="no such file"):
        read_pth(tmp_path / "nowhere.pth")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    torch.save({"module.weight": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="evil.pth"):
        read_pth(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_what_model_it_is_must_be_said_once(golden):
    with pytest.raises(InputError, match="--preset or --options"):
        convert(NET_G)
    with pytest.raises(InputError, match="not both"):
        convert(NET_G, config=preset("tiny"), options={})
    with pytest.raises(CheckpointError, match="only in content.pth"):
        convert(NET_G, options=golden("L_checkpoint_expected").config, raw=True)
