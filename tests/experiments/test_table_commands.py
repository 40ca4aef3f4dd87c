"""The tables of `ddgan experiment` from the command line."""

import csv

import pytest

from ddgan_fast.cli import main

SMALL = """
data: digits
iterations: 4
checkpoint_every: 4
sample_every: 100
log_every: 4
"""


def run(capsys, *words):
    code = main(["experiment", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_table3(stacked_model, bars, tmp_path, capsys):
    words = "table3", "--model", stacked_model, "--data", f"stackedmnist:{bars}", "--cache", tmp_path, "--num-images", 200
    code, out, err = run(capsys, *words, "--out", tmp_path / "table3")
    assert code == 0, err
    assert "1000" in out and "stacked" in out and "VAEBM (Xiao et al.)" in out
    with open(tmp_path / "table3/table3.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["model"] == "stacked" and rows[0]["source"] == "measured"
    assert int(rows[0][f"{bars.name}-modes"]) >= 1 and rows[0]["modes"] == "", "those digits are not MNIST's, which the paper stacks"


def test_table1_with_the_classifier(stacked_model, bars, tmp_path, capsys):
    words = (
        "table1",
        "--model",
        stacked_model,
        "--data",
        bars,
        "--feature-extractor",
        "classifier",
        "--cache",
        tmp_path,
        "--num-images",
        400,
    )
    pytest.importorskip("matplotlib")
    code, out, err = run(capsys, *words, "--out", tmp_path / "table1")
    assert code == 0, err
    assert "classifier-FID" in out and "3.75" in out
    assert {"table1.csv", "table1.md", "table1-1.png", "figure4.png"} <= {path.name for path in (tmp_path / "table1").iterdir()}


def test_table2_with_the_classifier(bars, tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(SMALL.replace("digits", f"fashion-mnist:{bars}") + "resolution: 32\nchannel_mult: [1, 1, 1]\n")
    words = "table2", "--preset", "tiny", "--config", tmp_path / "small.yaml", "--variants", "t1", "--seeds", "0,1"
    words = *words, "--feature-extractor", "classifier", "--cache", tmp_path, "--num-images", 200, "--out", tmp_path / "table2"
    code, _, err = run(capsys, *words)
    assert code == 0, err
    with open(tmp_path / "table2/table2.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["classifier-FID"]) > 0 and float(row["classifier-FID std"]) > 0
    assert 0.95 < float(row["classifier accuracy"]) <= 1 and "classifier accuracy std" not in row


def test_wrong_words(stacked_model, bars, tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(SMALL)
    out = "--out", tmp_path / "out"
    cases = [
        (("table3", "--model", stacked_model, "--data", bars), 2, "this table is of stackedmnist:DIR"),
        (("table1", "--model", stacked_model, stacked_model, "--data", bars), 2, "two have one name"),
        (("table2", "--config", tmp_path / "small.yaml", "--seeds", "0,x"), 2, "give whole numbers with commas"),
        (("table2", "--config", tmp_path / "small.yaml", "--variants", "t3", "--feature-extractor", "classifier"), 2, "variants t3"),
        (("table2", "--data", "digits"), 2, "--data: this table, whose data are a setting of --config"),
        (("figure6", "--methods", "VAE"), 2, "VAE"),
    ]
    for words, code, text in cases:
        got, _, err = run(capsys, *words, *out)
        assert (got, text in err) == (code, True), (words, err)
        assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
