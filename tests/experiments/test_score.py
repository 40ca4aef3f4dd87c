"""`ddgan eval` and what it calls: rows of scores, from tiny models on small sets."""

import json
import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from ddgan_fast.cli import main
from ddgan_fast.data.datasets import open_dataset
from ddgan_fast.errors import DataError, InputError
from ddgan_fast.evaluation.scoring import Judges
from ddgan_fast.experiments import score
from ddgan_fast.experiments.score import judges_of, score_images, score_points, score_stacked


class Corner:
    """An extractor whose features are four pixels."""

    name, dim, identity, metric_prefix = "corner", 4, "corner", "corner-"

    def __call__(self, images):
        return SimpleNamespace(features=images[:, 0, :2, :2].flatten(1).float(), probabilities=None)


@pytest.fixture
def judges():
    judge = Corner()
    return Judges(judge, judge)


def test_images_are_scored_beside_their_cost(make, judges, tmp_path, caplog):
    pipe, seen = make(), []
    dataset = open_dataset("digits", pipe.config.model)
    row = score_images(pipe, dataset, judges, tmp_path, num_images=50, batch_size=20, watch=seen.append)
    assert sum(seen) == 1797 + 50
    assert row["corner-FID"] > 0 and 0 <= row["corner-recall"] <= 1 and row["NFE"] == 4 and row["seconds"] > 0
    assert (row["data"], row["images"], row["reference images"], row["protocol"]) == ("digits", 50, 1797, "default")
    again = score_images(pipe, dataset, judges, tmp_path, num_images=50, batch_size=7)
    assert again["corner-FID"] == pytest.approx(row["corner-FID"], rel=1e-9)
    assert score_images(pipe, dataset, judges, tmp_path, "paper", num_images=50)["corner-FID"] != row["corner-FID"]
    assert "protocol paper: it takes 50,000 images (30,000 of CelebA-HQ); with 50 FID comes out higher" in caplog.text


def test_a_set_against_itself_has_no_distance(judges, make, tmp_path):
    dataset = open_dataset("digits", make().config.model)
    pipe = SimpleNamespace(
        batches=lambda seeds, size: iter([(seeds, dataset.__getitems__(list(seeds)).permute(0, 2, 3, 1))]),
        config=make().config, device=torch.device("cpu"), runs="none", precision="fp32",
    )  # fmt: skip
    row = score_images(pipe, dataset, judges, tmp_path, num_images=1797)
    assert abs(row["corner-FID"]) < 1e-6 and row["corner-precision"] == row["corner-recall"] == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers_are_refused(make, judges, tmp_path, bad):
    def broken(name, **changes):
        pipe = make(name, **changes)
        for parameter in pipe.generator.parameters():
            parameter.fill_(bad)
        return pipe

    refused = partial(pytest.raises, DataError, match="NaN or infinity in a batch of 10; the model is broken")
    pipe = broken("tiny")
    with refused():
        score_images(pipe, open_dataset("digits", pipe.config.model), judges, tmp_path, num_images=10)
    with refused():
        score_points(broken("gaussians25", channels=8), 10)
    with refused():
        score_stacked(broken("tiny", image_channels=3), [], None, {}, 10)


def test_a_row_says_what_ran(make, judges, tmp_path):
    pipe = make().compile("auto", "bf16")
    dataset = open_dataset("digits", pipe.config.model)
    assert score_images(pipe, dataset, judges, tmp_path, num_images=10)["engine"] == "folded, bf16"
    assert make("gaussians25").compile().runs == "eager"


def test_too_few_images_are_refused_before_any_work(make, judges, tmp_path):
    pipe = make()
    dataset = open_dataset("digits", pipe.config.model)
    with pytest.raises(InputError, match="4 generated images are too few: corner has 4 features, whose covariance needs 5 or more"):
        score_images(pipe, dataset, judges, tmp_path, num_images=4)
    few = open_dataset("digits", pipe.config.model, max_images=3)
    with pytest.raises(InputError, match="3 images of digits are too few"):
        score_images(pipe, few, judges, tmp_path, num_images=50)
    assert not list(tmp_path.iterdir())


def test_the_digits_of_mnist_are_known_by_how_many_there_are(tmp_path, monkeypatch):
    labels = torch.arange(10).repeat_interleave(torch.tensor(score.MNIST_LABELS))
    parts = {
        "train": (torch.zeros(60_000, 1, 8, 8, dtype=torch.uint8), labels),
        "t10k": (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), labels[:1]),
    }
    monkeypatch.setattr(score, "read_labelled", lambda folder, shape, part: parts[part])
    monkeypatch.setattr(score, "cached_classifier", lambda cache, train, test, device: ("classifier", {}))
    assert score.digits_of(f"stackedmnist:{tmp_path}", 8, tmp_path)[2] == "MNIST"
    labels[0] = 1
    assert score.digits_of(f"stackedmnist:{tmp_path}", 8, tmp_path)[2] == tmp_path.name


def test_one_network_takes_one_file():
    with pytest.raises(InputError, match="one network makes all numbers"):
        judges_of("lite0", None, "vgg.pth")


def test_points_that_are_the_data_are_of_high_quality(make):
    config = make("gaussians25").config
    points = open_dataset("gaussians25", config.model).items
    pipe = SimpleNamespace(
        batches=lambda seeds, size: iter([(seeds, points[: len(seeds)])]),
        config=config,
        device=torch.device("cpu"),
        runs="none",
        precision="fp32",
    )
    row = score_points(pipe)
    assert row["modes"] == 25 and row["high_quality"] == pytest.approx(0.989, abs=0.005) and row["kl"] < 1e-3
    assert score_points(make("gaussians25", channels=8))["high_quality"] < 0.2


def evaluated(capsys, *words):
    code = main(["eval", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_stackedmnist_from_the_command_line(stacked_model, bars, tmp_path, capsys):
    words = "--model", stacked_model, "--data", f"stackedmnist:{bars}", "--cache", tmp_path, "--num-images", 200, "--json"
    code, out, err = evaluated(capsys, *words)
    assert code == 0, err
    row = json.loads(out)
    assert row["classifier accuracy"] > 0.95 and 1 <= row["modes"] <= 200 and row["KL"] > row["KL of real images"]
    assert row["modes of real images"] > 150 and row["images"] == 200
    assert json.loads(evaluated(capsys, *words)[1]) | {"seconds": 0} == row | {"seconds": 0}


def test_modes_of_real_stacked_digits_are_their_labels(bars, make, tmp_path):
    from ddgan_fast.experiments.score import digits_of

    config = make(resolution=32, image_channels=3).config
    dataset = open_dataset(f"stackedmnist:{bars}", config.model)
    classifier, record, digits = digits_of(bars, 32, tmp_path)
    assert digits == bars.name
    pipe = SimpleNamespace(
        batches=lambda seeds, size: iter([(seeds, dataset.__getitems__(list(seeds)).permute(0, 2, 3, 1))]),
        config=config, device=torch.device("cpu"), runs="none", precision="fp32",
    )  # fmt: skip
    row = score_stacked(pipe, dataset, classifier, record, num_images=500)
    assert row["modes"] == row["modes of real images"] == len(set(dataset.labels[:500].tolist()))
    assert row["KL"] == row["KL of real images"]


def test_the_classifier_as_extractor_names_its_numbers(stacked_model, bars, tmp_path, capsys):
    words = "--model", stacked_model, "--data", bars, "--feature-extractor", "classifier", "--cache", tmp_path, "--num-images", 400
    code, out, err = evaluated(capsys, *words)
    assert code == 0, err
    assert "classifier-FID" in out and "classifier-recall" in out and "\nFID" not in out
    assert 0.95 < float(re.search(r"^classifier accuracy +(\S+)$", out, re.M)[1]) <= 1


def test_wrong_words(stacked_model, bars, tmp_path, capsys, monkeypatch):
    cases = [
        ("--num-images 0", 2, "whole numbers of 1 or more"),
        ("", 2, "give --data"),
        (f"--data {tmp_path / 'no'}", 3, "no such path"),
        ("--data gaussians25", 2, "it holds 2-D points"),
        ("--data digits --feature-extractor classifier", 3, "digits: the classifier learns from labelled images of fashion-mnist or"),
        (f"--data stackedmnist:{bars} --protocol paper", 2, "--protocol: StackedMNIST takes none"),
        (f"--data {bars} --feature-extractor classifier --weights x", 2, "--weights: the classifier, which is trained here, takes none"),
        (f"--data {bars} --feature-extractor lite0 --weights {tmp_path / 'no.pth'}", 5, "path: "),
    ]
    for words, code, text in cases:
        got, _, err = evaluated(capsys, "--model", stacked_model, "--cache", tmp_path, *words.split())
        assert (got, text in err) == (code, True), (words, err)
        assert "Traceback" not in err and len(err.splitlines()) < 15
