"""The classifier of StackedMNIST's modes learns, is the same for a seed, and is kept; a damaged cache is made anew."""

import json
import logging

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import pad

from ddgan_fast.checkpoint.folder import sha256
from ddgan_fast.data import idx
from ddgan_fast.errors import InputError
from ddgan_fast.evaluation import classifier as module
from ddgan_fast.evaluation.classifier import Classifier, accuracy, cached_classifier, classes, stacked_labels, train_classifier


def stripes(count, seed):
    """(images uint8 [count, 1, 28, 28], labels): the class is where a bright stripe lies in the noise."""
    labels = torch.arange(count) % 10
    images = torch.randint(0, 60, (count, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 2 * label : 2 * label + 6] += 150
    return images, labels


TRAIN, TEST = stripes(40, seed=0), stripes(20, seed=1)


@pytest.fixture(scope="module")
def trained():
    return train_classifier(*stripes(1280, seed=0), epochs=2)


def equal(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_it_learns_handwritten_digits():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    digits = datasets.load_digits()
    images = torch.from_numpy(digits.images / 16 * 255).byte()[:, None]
    labels = torch.from_numpy(digits.target).long()
    classifier = train_classifier(images[:1400], labels[:1400], epochs=4)
    assert accuracy(classifier, images[1400:], labels[1400:]) >= 0.93  # 0.94 to 0.95 was measured; these 397 are of other writers


def test_it_learns_and_names_the_modes_of_stacked_digits(trained):
    images, labels = stripes(90, seed=1)
    assert accuracy(trained, images, labels) == 1
    assert accuracy(trained, images, (labels + (torch.arange(90) < 9)) % 10) == pytest.approx(0.9)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0)).view(30, 3)
    modes = stacked_labels(trained, images[order, 0])
    assert modes.dtype == torch.int64
    assert torch.equal(modes, (labels[order] * torch.tensor([100, 10, 1])).sum(1))


def test_a_seed_is_a_classifier_and_torch_keeps_its_own():
    before = torch.random.get_rng_state()
    first = train_classifier(*TRAIN, seed=3, epochs=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)
    assert equal(first, train_classifier(*TRAIN, seed=3, epochs=2))
    assert not equal(first, train_classifier(*TRAIN, seed=4, epochs=2))


def test_images_of_28_are_seen_as_padded_to_32_and_alone(trained):
    images, _ = TEST
    features = trained.features(images)
    assert features.shape == (20, module.DIM) and features.dtype == torch.float32
    assert torch.equal(trained.features(pad(images, (2, 2, 2, 2))), features)
    alone = torch.cat([trained.features(image[None]) for image in images])
    torch.testing.assert_close(alone, features, rtol=1e-5, atol=1e-5)
    assert torch.equal(trained(images), trained.last(features))
    assert trained.features(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).shape == (1, module.DIM)


@pytest.mark.parametrize(
    "images, labels, reason",
    [
        (TRAIN[0].float(), TRAIN[1], "uint8"),
        (TRAIN[0].expand(-1, 3, -1, -1), TRAIN[1], r"uint8 \[B, 1, H, W\]"),
        (TRAIN[0], TRAIN[1].int(), "int64, one per image"),
        (TRAIN[0], TRAIN[1][:-1], "one per image"),
        (TRAIN[0][:0], TRAIN[1][:0], "one per image"),
        (TRAIN[0], TRAIN[1] + 1, "labels: 1 to 10"),
        (TRAIN[0], TRAIN[1] - 1, "labels: -1 to 8"),
    ],
)
def test_what_it_cannot_learn_from_is_refused(images, labels, reason):
    with pytest.raises(InputError, match=reason):
        train_classifier(images, labels, epochs=1)


def test_stacked_labels_are_of_three_digits(trained):
    with pytest.raises(InputError, match=r"stacked digits are \[B, 3, H, W\]"):
        stacked_labels(trained, TEST[0])


def no_training(*_):
    raise AssertionError("trained again")


def test_it_is_trained_once(tmp_path, monkeypatch):
    first, record = cached_classifier(tmp_path / "cache", TRAIN, TEST, epochs=1)
    assert record["accuracy"] == accuracy(first, *TEST) and record["torch"] == torch.__version__
    assert record["train_images"] == 40 and record["test_images"] == 20
    other, _ = cached_classifier(tmp_path / "cache", TRAIN, TEST, epochs=1, seed=1)
    changed = TRAIN[0].clone()
    changed[7, 0, 5, 5] ^= 1
    _, of_changed = cached_classifier(tmp_path / "cache", (changed, TRAIN[1]), TEST, epochs=1)
    assert of_changed["data_sha256"] != record["data_sha256"]
    _, tested_on_fewer = cached_classifier(tmp_path / "cache", TRAIN, (TEST[0][:9], TEST[1][:9]), epochs=1)
    assert tested_on_fewer["test_images"] == 9
    assert len(list((tmp_path / "cache").iterdir())) == 4
    monkeypatch.setattr(module, "train_classifier", no_training)
    again, read = cached_classifier(tmp_path / "cache", TRAIN, TEST, epochs=1)
    assert read == record and equal(again, first) and not again.training
    assert torch.equal(classes(again, TEST[0]), classes(first, TEST[0]))
    assert equal(cached_classifier(tmp_path / "cache", TRAIN, TEST, epochs=1, seed=1)[0], other)
    with pytest.raises(AssertionError, match="trained again"):
        cached_classifier(tmp_path / "cache", TRAIN, TEST, epochs=2)


def change(path, **facts):
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def of_another_network(weights, record):
    save_file(Classifier(channels=4).state_dict(), weights)
    change(record, sha256=sha256(weights))


DAMAGE = {
    "weights cut off": lambda weights, record: weights.write_bytes(weights.read_bytes()[:-100]),
    "a bit flipped": lambda weights, record: flip(weights),
    "no weights": lambda weights, record: weights.unlink(),
    "another network": of_another_network,
    "no record": lambda weights, record: record.unlink(),
    "not JSON": lambda weights, record: record.write_text("{"),
    "another recipe": lambda weights, record: change(record, recipe=0),
    "another set": lambda weights, record: change(record, data_sha256="0"),
    "no accuracy": lambda weights, record: change(record, accuracy="high"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_cache_is_made_anew(tmp_path, monkeypatch, caplog, damage):
    first, record = cached_classifier(tmp_path, TRAIN, TEST, epochs=1)
    (folder,) = tmp_path.iterdir()
    damage(folder / "classifier.safetensors", folder / "classifier.json")
    with caplog.at_level(logging.WARNING):
        again, _ = cached_classifier(tmp_path, TRAIN, TEST, epochs=1)
    assert str(folder) in caplog.text and "training the classifier again" in caplog.text
    assert equal(again, first)
    monkeypatch.setattr(module, "train_classifier", no_training)
    assert cached_classifier(tmp_path, TRAIN, TEST, epochs=1)[1]["sha256"] == record["sha256"]


def test_where_nothing_can_be_written_it_serves_once(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        classifier, record = cached_classifier(tmp_path / "file", TRAIN, TEST, epochs=1)
    assert "the classifier is not kept" in caplog.text
    assert record["accuracy"] == accuracy(classifier, *TEST)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(idx.find(idx.FASHION_MNIST, idx.IMAGES) is None, reason=f"Fashion-MNIST is not installed: {idx.APT_LINE}")
def test_fashion_mnist(tmp_path):
    sets = [idx.read_labelled(idx.FASHION_MNIST, (1, 32, 32), part) for part in ("train", "t10k")]
    _, record = cached_classifier(tmp_path, *sets)
    assert record["accuracy"] >= 0.90
