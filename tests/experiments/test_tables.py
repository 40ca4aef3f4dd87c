"""Published numbers are the paper's; a table sets ours above them, marked, and what another network made apart."""

import time
from types import SimpleNamespace

import pytest
import torch

from ddgan_fast.errors import DataError, InputError
from ddgan_fast.evaluation.scoring import Judges
from ddgan_fast.experiments import published, sampler_times, tables
from ddgan_fast.experiments.samplers import SAMPLERS
from ddgan_fast.experiments.tables import SECONDS, read_rows, table1, table3, table4, table5


class Pixels:
    """A judge whose features are the first pixels; `metric_prefix` says whose numbers it claims to make."""

    name, dim = "pixels", 5

    def __init__(self, metric_prefix):
        self.metric_prefix, self.identity = metric_prefix, f"pixels {metric_prefix}"

    def __call__(self, images):
        features = images.flatten(1)[:, : self.dim].float() / 255
        return SimpleNamespace(features=features, probabilities=features[:, :4].double().softmax(dim=1).float())


class Noise:
    """A data set of noise."""

    def __init__(self, channels=1, count=30, name="noise"):
        self.name = name
        self.images = torch.randint(0, 256, (count, channels, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.images)

    def __getitems__(self, indices):
        return self.images[indices]


def judges_of(fidelity, manifold=None):
    fidelity = Pixels(fidelity)
    return Judges(fidelity, fidelity if manifold is None else Pixels(manifold))


@pytest.mark.parametrize(
    "rows, count, sums",
    [  # added up from the text of the paper, and how many cells are no dash
        (
            published.TABLE1,
            30,
            {"IS": (214.06, 25), "FID": (358.16, 30), "recall": (8.84, 17), "NFE": (16885, 29), "seconds": (1147.98, 15)},
        ),
        (published.TABLE2, 8, {"IS": (73.01, 8), "FID": (74.66, 8), "recall": (3.58, 8)}),
        (published.TABLE3, 8, {"modes": (7691, 8), "KL": (4.837, 8)}),
        (published.TABLE4, 11, {"FID": (157.38, 11)}),
        (published.TABLE5, 8, {"FID": (63.54, 8)}),
    ],
    ids=["table1", "table2", "table3", "table4", "table5"],
)
def test_published_numbers_add_up(rows, count, sums):
    assert len(rows) == count == len({row.model for row in rows})
    for column in published.Row._fields[1:]:
        values = [value for row in rows if (value := getattr(row, column)) is not None]
        assert (pytest.approx(sum(values), abs=1e-9), len(values)) == sums.get(column, (0, 0)), column


def test_published_rows_are_those_of_the_paper():
    rows = {row.model: row[1:6] for row in published.TABLE1}
    assert rows["Denoising Diffusion GAN (ours), T=4"] == (9.63, 3.75, 0.57, 4, 0.21)
    assert rows["Score SDE (VP) (Song et al., 2021c)"] == (9.68, 2.41, 0.59, 2000, 421.5)
    assert rows["Likelihood SDE (Song et al., 2021b)"] == (None, 2.87, None, None, None)
    assert rows["SNGAN+DGflow (Ansari et al., 2021)"] == (9.35, 9.62, 0.48, 25, 1.98)
    assert published.TABLE2[-1][:4] == ("No latent variable", 8.37, 20.6, 0.42)
    assert (published.TABLE3[-1].modes, published.TABLE3[-1].KL) == (1000, 0.071)


@pytest.fixture(scope="module")
def first(make, tmp_path_factory):
    """(rows, folder) of Table 1 for two models, judged by a network that is not Inception; what is timed takes 3 seconds by the clock."""
    folder, watched = tmp_path_factory.mktemp("tables"), []
    models = {"mine | 4": make(), "mine, T=2": make(steps=2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_times, "ROUNDS", 1)
        patch.setattr(sampler_times, "_seconds", lambda call, device: (call(), 3.0)[1])
        rows = table1(models, Noise(), judges_of("lite0-"), folder, folder / "out", 24, batch_size=10, watch=watched.append, timed_batch=2)
    assert sum(watched) >= 48
    return rows, folder / "out"


def test_table1_has_models_then_samplers_then_the_paper(first):
    rows, _ = first
    assert [row["source"] for row in rows] == ["measured"] * (2 + len(SAMPLERS)) + ["paper, V100"] * 30
    assert [row["NFE"] for row in rows[:7]] == [4, 2, *(nfe for _, nfe in SAMPLERS.values())]
    assert [row["model"] for row in rows[2:4]] == ["Score SDE (VP), untrained", "DDPM, untrained"]
    assert [row["evaluations timed"] for row in rows[:7]] == [4, 2, 20, 10, 28, 10, 10]
    for row in rows[:7]:
        assert row["batch"] == 2 and row[SECONDS] == pytest.approx(150 * row["NFE"] / row["evaluations timed"])
    assert (rows[7]["model"], rows[7]["FID"], rows[7][SECONDS], rows[7]["batch"]) == (
        "Denoising Diffusion GAN (ours), T=4",
        3.75,
        0.21,
        100,
    )


def test_a_call_is_timed():
    assert 0.02 <= sampler_times._seconds(lambda: time.sleep(0.02), torch.device("cpu")) < 20


def test_numbers_of_another_network_stand_apart(first):
    rows, folder = first
    for row in rows:
        is_model = row["model"] in ("mine | 4", "mine, T=2")
        assert (row["lite0-FID"] is not None) == (row["lite0-recall"] is not None) == is_model
        assert (row["FID"] is not None) == (row["source"] == "paper, V100")
    text = (folder / "table1.md").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if "do not compare" in line)
    assert "lite0-FID" in line and "lite0-recall" in line
    assert "24 images against 30 of noise" in text and "quoted from Table 1 of the paper" in text


def test_files_hold_the_rows(first):
    rows, folder = first
    assert sorted(path.name for path in folder.iterdir()) == ["table1-1.png", "table1-2.png", "table1.csv", "table1.md"]
    assert read_rows(folder / "table1.csv") == rows
    lines = [line for line in (folder / "table1.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [line.replace(r"\|", "/").strip("|").split("|") for line in lines]
    assert len(lines) == 2 + len(rows) and {len(row) for row in cells} == {len(rows[0])}
    assert [cell.strip() for cell in cells[0]] == list(rows[0])
    assert cells[2][1].strip() == "mine / 4"
    assert [cell.strip() for cell in cells[9][:8]] == [
        "paper, V100",
        "Denoising Diffusion GAN (ours), T=4",
        "9.63",
        "3.75",
        "0.57",
        "-",
        "-",
        "-",
    ]


@pytest.mark.parametrize("table, number, rows", [(table4, 4, published.TABLE4), (table5, 5, published.TABLE5)], ids=["table4", "table5"])
def test_inception_stands_beside_the_paper(make, tmp_path, table, number, rows, monkeypatch):
    monkeypatch.setitem(tables.PAPER_SETS, number, (None, (1, 8, 8)))
    found = table({"mine": make()}, Noise(), judges_of("", "vgg16-"), tmp_path, tmp_path / "new/out", 24, protocol="paper")
    assert [row["source"] for row in found] == ["measured"] + ["paper"] * len(rows)
    mine, paper = found[:2]
    assert mine["FID"] > 0 and "vgg16-recall" in mine and (mine["protocol"], mine["images"], mine["NFE"]) == ("paper", 24, 4)
    assert mine["engine"] == "eager, float32" and mine[SECONDS] > 0
    assert (paper["FID"], paper[SECONDS]) == (rows[0].FID, None)
    text = (tmp_path / f"new/out/table{number}.md").read_text(encoding="utf-8")
    assert "JPEG" in text and "vgg16-precision, vgg16-recall: made by another network" in text


def test_one_network_for_all_does_not_give_the_published_recall(make, tmp_path):
    mine = table5({"mine": make()}, Noise(), judges_of(""), tmp_path, tmp_path, 24)[0]
    assert "inception-recall" in mine and "recall" not in mine


@pytest.mark.parametrize("shape, name", [((3, 256, 256), "noise"), ((1, 8, 8), "digits"), ((1, 8, 8), "cifar10")])
def test_numbers_of_other_images_stand_apart(make, tmp_path, monkeypatch, shape, name):
    monkeypatch.setitem(tables.PAPER_SETS, 5, (None, shape))
    rows = table5({"mine": make()}, Noise(name=name), judges_of(""), tmp_path, tmp_path, 24)
    assert rows[0][f"{name}-FID"] > 0 and rows[0]["FID"] is None and rows[0][f"{name}-IS"] >= 1 and rows[1]["FID"] > 0
    assert f"{name}-FID, {name}-IS" in (tmp_path / "table5.md").read_text(encoding="utf-8").split("do not compare")[0].splitlines()[-1]


def test_table1_takes_cifar10_alone_beside_the_paper(monkeypatch):
    monkeypatch.setattr(tables, "score_images", lambda pipe, dataset: {"FID": 3.0, "images": 1})
    pipe = SimpleNamespace(config=SimpleNamespace(model=SimpleNamespace(sample_shape=(3, 32, 32))))
    found = [tables._score(1, Noise(name=name))(pipe) for name in ("cifar10", "my folder", "emoji")]
    assert found == [{"FID": 3.0, "images": 1}] * 2 + [{"emoji-FID": 3.0, "images": 1}]


@pytest.mark.parametrize("digits, own", [("MNIST", ""), ("Fashion-MNIST", "Fashion-MNIST-")])
def test_table3_sets_other_digits_apart(make, tmp_path, digits, own):
    def classifier(images):
        return torch.nn.functional.one_hot(images.flatten(1)[:, 0].long() % 10, 10).float()

    pipe = make(image_channels=3)
    rows = table3({"mine": pipe}, Noise(3, name="stackedmnist"), classifier, {"accuracy": 0.987}, digits, tmp_path, 30)
    assert [row["source"] for row in rows] == ["measured"] + ["paper"] * 8
    assert 1 <= rows[0][f"{own}modes"] <= 30 and rows[0][f"{own}KL"] > 0
    assert (rows[0]["modes"] is None) == bool(own) and rows[8]["modes"] == 1000
    assert read_rows(tmp_path / "table3.csv") == rows
    text = (tmp_path / "table3.md").read_text(encoding="utf-8")
    assert "98.70%" in text and ("do not compare" in text) == bool(own)


def test_models_that_do_not_go_together_are_refused(make, tmp_path):
    def table(models, out=tmp_path):
        return table1(models, Noise(), judges_of(""), tmp_path, out, 24)

    with pytest.raises(InputError, match="no models"):
        table({})
    with pytest.raises(InputError, match=r"'b'.*\[3, 8, 8\].*'a': \[1, 8, 8\]"):
        table({"a": make(), "b": make(image_channels=3)})
    with pytest.raises(InputError, match="'points'.*2-D points"):
        table({"points": make("gaussians25")})
    with pytest.raises(InputError, match="'DDIM'.*another label"):
        table({"DDIM": make()})
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file.*give a folder"):
        table({"a": make()}, tmp_path / "file")
    with pytest.raises(InputError, match="24 generated images|too few"):
        table1({"a": make()}, Noise(), judges_of(""), tmp_path, tmp_path, 3)


def test_what_was_scored_before_an_error_is_kept(make, tmp_path):
    good, bad = make(), make()
    for parameter in bad.generator.parameters():
        parameter.fill_(float("nan"))
    with pytest.raises(DataError, match="NaN or infinity"):
        table4({"good": good, "bad": bad}, Noise(), judges_of(""), tmp_path, tmp_path / "out", 24)
    mine, paper = read_rows(tmp_path / "out/table4.csv")[:2]
    assert (mine["model"], paper["source"]) == ("good", "paper") and mine["noise-FID"] > 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"table4-1.png", "table4.csv", "table4.md"}


def test_other_ranks_write_nothing(make, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "score_images", lambda *args: None)
    for table in (table1, table4, table5):
        assert table({"mine": make()}, Noise(), judges_of(""), tmp_path, tmp_path / "out") is None
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("text", ["source,model,FID\nmeasured,a\n", "source,model,FID\nmeasured,a,1,2\n", "source,FID\nmeasured,good\n"])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "table1.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="table1.csv: not a table of ours"):
        read_rows(path)
    with pytest.raises(DataError, match="not a table of ours"):
        read_rows(tmp_path / "none.csv")
