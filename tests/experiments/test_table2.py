"""Table 2 on a tiny network: each variant trains, is scored and stands beside its published row; a stopped table goes on."""

import csv
from types import SimpleNamespace

import pytest

from ddgan_fast import DDGANPipeline
from ddgan_fast.config import ABLATIONS, override, preset
from ddgan_fast.errors import InputError
from ddgan_fast.evaluation.scoring import Judges
from ddgan_fast.experiments import published, runs, table2
from ddgan_fast.experiments.table2 import VARIANTS


class Corner:
    """An extractor whose features are four pixels."""

    name, dim, identity, metric_prefix = "corner", 4, "corner", "corner-"

    def __call__(self, images):
        features = images[:, 0, 3:5, 3:5].flatten(1).float()
        return SimpleNamespace(features=features, probabilities=(features / 16).softmax(dim=1))


BASE = override(
    preset("tiny"), {"iterations": 4, "checkpoint_every": 4, "sample_every": 100, "log_every": 4, "ema_decay": 0.0, "lr_g": 0.02}
)


@pytest.fixture
def make_table(tmp_path):
    """make_table(variants, seeds, num_images, **changes of the base) -> rows, in tmp_path."""
    judge = Corner()

    def make(variants, seeds, num_images=20, **changes):
        words = lambda: Judges(judge, judge), tmp_path / "cache", tmp_path / "table", "cpu", DDGANPipeline.from_pretrained, num_images
        return table2.table2(override(BASE, changes), variants, seeds, *words, batch_size=10)

    return make


def test_every_row_of_the_paper_has_a_variant():
    assert sorted(row for row, _ in VARIANTS.values()) == sorted(row.model for row in published.TABLE2)
    assert VARIANTS["noise"][1] == {"prediction": "noise", "tanh": False}
    assert len(VARIANTS) == len(ABLATIONS) + 1


def test_variants_are_trained_and_scored(make_table, tmp_path, monkeypatch):
    rows = make_table(["t4", "t1", "noise", "one-shot-aug"], [0, 1])
    assert [(row["variant"], row["NFE"], row["paper FID, CIFAR-10"]) for row in rows] == [
        ("T = 4", 4, 3.75), ("T = 1", 1, 14.6), ("Noise generation", 4, 8.04), ("One-shot w/ aug", 1, 13.2),
    ]  # fmt: skip
    assert len({row["corner-FID"] for row in rows}) == 4
    assert all(row["corner-IS"] > 1 and row["corner-IS std"] > 0 and "corner-IS std std" not in row for row in rows)
    assert all(row["corner-FID std"] > 0 and row["seeds"] == 2 and row["iterations"] == 4 for row in rows)
    with open(tmp_path / "table/table2.csv", newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["variant"] for row in written] == [row["variant"] for row in rows]
    assert float(written[1]["corner-FID"]) == pytest.approx(rows[1]["corner-FID"], abs=1e-4)
    with open(tmp_path / "table/table2-runs.csv", newline="", encoding="utf-8") as file:
        trained = list(csv.DictReader(file))
    assert [(run["variant"], run["seed"]) for run in trained[:3]] == [("T = 4", "0"), ("T = 4", "1"), ("T = 1", "0")] and len(trained) == 8
    mean = (float(trained[2]["corner-FID"]) + float(trained[3]["corner-FID"])) / 2
    assert mean == pytest.approx(rows[1]["corner-FID"], abs=1e-4)

    monkeypatch.setattr(runs, "train", lambda *_: pytest.fail("a finished run was trained again"))
    again = make_table(["t4", "t1", "noise", "one-shot-aug"], [0, 1])
    assert [row["corner-FID"] for row in again] == [row["corner-FID"] for row in rows]


def test_one_seed_has_no_deviation(make_table):
    (row,) = make_table(["no-latent"], [3])
    assert row["corner-FID std"] is None and row["variant"] == "No latent variable"


def test_wrong_words_end_before_any_training(make_table, tmp_path):
    cases = [
        ((["t4", "t3"], [0]), {}, "variants t3"),
        (([], [0]), {}, "give one or more of t4"),
        ((["t4"], []), {}, "and seeds, each once"),
        ((["t4"], [0, 0]), {}, "each once"),
        ((["t4", "t4"], [0]), {}, "each once"),
        ((["t4"], [2**32]), {}, "seed = 4294967296"),
        ((["t4"], [0]), {"steps": 2}, "steps = 2, not 4"),
        ((["t4"], [0]), {"latent": False}, "latent = False, not True"),
        ((["t4"], [0], 4), {}, "4 generated images are too few"),
        ((["t4"], [0]), {"max_images": 3}, "3 images of digits are too few"),
    ]
    for words, changes, text in cases:
        with pytest.raises(InputError, match=text):
            make_table(*words, **changes)
    assert not (tmp_path / "table").exists()


def test_runs_of_other_settings_are_not_taken_for_these(make_table, tmp_path):
    make_table(["t4"], [0])
    before = {path: path.read_bytes() for path in (tmp_path / "table/t4-seed0").rglob("*.*") if path.is_file()}
    for changes in ({"iterations": 8}, {"lr_g": 0.01}, {"data": "fashion-mnist", "max_images": 100}):
        with pytest.raises(InputError, match="was trained with other settings: .* give another --out"):
            make_table(["t4"], [0], **changes)
    assert make_table(["t4"], [0])
    assert {path: path.read_bytes() for path in before} == before
