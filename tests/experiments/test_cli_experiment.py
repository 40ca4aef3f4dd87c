"""`ddgan experiment`: each name runs with the model and data of a run, and says where its files are."""

import subprocess
import sys

import pytest
import tyro

from ddgan_fast.cli_experiment import EXPERIMENTS, Experiment
from ddgan_fast.errors import DataError, InputError
from ddgan_fast.evaluation.extractors import Features
from ddgan_fast.experiments import figure16


def run(*words):
    tyro.cli(Experiment, args=[str(word) for word in words], config=(tyro.conf.OmitArgPrefixes,)).run()


@pytest.fixture(scope="module")
def model(tmp_path_factory, make):
    path = tmp_path_factory.mktemp("models") / "tiny"
    make().save_pretrained(path)
    return path


@pytest.mark.parametrize("words", [(), ("--list",), ("list",)], ids=str)
def test_list_says_item_and_time_of_each(capsys, words):
    run(*words)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)
    assert "figure8" in EXPERIMENTS and all("paper" in line and "CPU" in line for line in lines)


def test_every_experiment_is_described_and_writes_to_a_folder_of_its_name():
    for name, kind in EXPERIMENTS.items():
        assert kind.__doc__ and kind.ITEM and kind.TIME
        assert str(kind.__dataclass_fields__["out"].default) == f"runs/experiments/{name}"
        with pytest.raises(SystemExit) as stop:
            run(name, "--help")
        assert stop.value.code == 0


@pytest.mark.parametrize(
    "name, extra, files",
    [
        ("figure8", ["--num-images", 2], ["figure8.png"]),
        ("figure14", ["--num-images", 1, "--samples", 2], ["figure14.png"]),
        ("figure15", ["--num-images", 1, "--seed", 5], ["figure15.png"]),
        ("samples", ["--num-images", 4, "--film", 1], ["film.png", "samples.png"]),
        ("figure17", ["--num-images", 2, "--neighbors", 3, "--compared", 4], ["figure17.csv", "figure17.png"]),
    ],
)
def test_writes_what_it_says(capsys, monkeypatch, tmp_path, model, name, extra, files):
    pytest.importorskip("sklearn")  # has the digits
    pixels = lambda images: Features(images.flatten(1).float())  # noqa: E731
    pixels.identity = pixels.name = "pixels"
    monkeypatch.setattr(figure16, "open_extractor", lambda *words: pixels)
    run(name, "--model", model, "--device", "cpu", "--out", tmp_path / "a/b", *extra)
    printed = capsys.readouterr().out.splitlines()
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == files
    assert sorted(printed[-len(files) :]) == [str(tmp_path / "a/b" / file) for file in files]


def test_figures_of_matplotlib(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    run("figure2", "--out", tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 50, "d_loss_t": [1.0, 1.5]}\n')
    run("figure10", "--model", tmp_path, "--out", tmp_path)
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "figure2.png"), str(tmp_path / "figure10.png")]
    assert all((tmp_path / f"figure{n}.png").read_bytes().startswith(b"\x89PNG") for n in (2, 10))


def test_words_for_what_cannot_be(tmp_path, model, make):
    make("gaussians25", channels=16).save_pretrained(tmp_path / "points")
    for name in ("figure8", "figure14", "figure16", "samples"):
        with pytest.raises(InputError, match="draws points"):
            run(name, "--model", tmp_path / "points", "--device", "cpu", "--out", tmp_path / "x")
    make(data="").save_pretrained(tmp_path / "unsaid")
    with pytest.raises(InputError, match="give --data"):
        run("figure8", "--model", tmp_path / "unsaid", "--device", "cpu", "--out", tmp_path / "x")
    with pytest.raises(DataError, match="the folder of a run"):
        run("figure10", "--model", model, "--out", tmp_path / "x")
    for words in (["samples", "--film", 65], ["figure16", "--num-images", 1001], ["figure8", "--num-images", 0]):
        with pytest.raises(InputError, match=str(words[-1])):
            run(words[0], "--model", model, "--device", "cpu", "--out", tmp_path / "y", *words[1:])
    with pytest.raises(SystemExit) as stop:
        run("figure99")
    assert stop.value.code == 2
    assert not (tmp_path / "x").exists()


def test_help_and_list_import_no_torch():
    program = (
        "import sys, tyro\nfrom ddgan_fast.cli_experiment import Experiment\n"
        "tyro.cli(Experiment, args=['--list']).run()\n"
        "try: tyro.cli(Experiment, args=['figure8', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
