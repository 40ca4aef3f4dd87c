"""One pass over images gives what the formulas give on all features at once; references are kept in a file, and made anew when they must be."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast.data.decode import Images
from ddgan_fast.errors import DataError, InputError
from ddgan_fast.evaluation import reference
from ddgan_fast.evaluation.metrics import Statistics, frechet_distance, inception_score, precision_recall
from ddgan_fast.evaluation.reference import reference_features
from ddgan_fast.evaluation.scoring import PROTOCOLS, Judges, collect, scores, through_jpeg


class Pixels:
    """An extractor whose features are the first pixels of an image."""

    metric_prefix = "pixel-"

    def __init__(self, dim=5, identity="pixels 1"):
        self.dim, self.identity, self.seen = dim, identity, 0

    def __call__(self, images):
        assert images.dtype == torch.uint8 and images.shape[1:] == (3, 8, 8)
        self.seen += len(images)
        features = images.flatten(1)[:, : self.dim].float() / 255
        return SimpleNamespace(features=features, probabilities=features[:, :4].double().softmax(dim=1).float())


def images_of(count, seed=0):
    return torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class Dataset:
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitems__(self, indices):
        return self.images[indices].permute(0, 3, 1, 2)


def test_batches_give_what_all_features_give():
    judge, images, others = Pixels(), images_of(103), images_of(90, seed=1)
    judges = Judges(judge, judge)
    got = scores(collect(images.split(10), judges, 40), collect(others.split(7), judges, 40), judges)
    mine, real = judge(images.permute(0, 3, 1, 2)), judge(others.permute(0, 3, 1, 2))
    whole, of_real = Statistics(5), Statistics(5)
    whole.add(mine.features)
    of_real.add(real.features)
    assert got["pixel-FID"] == pytest.approx(frechet_distance(whole, of_real), rel=1e-9)
    assert (got["pixel-IS"], got["pixel-IS std"]) == pytest.approx(inception_score(mine.probabilities))
    assert (got["pixel-precision"], got["pixel-recall"]) == precision_recall(real.features[:40], mine.features[:40])
    assert 0 < got["pixel-recall"] < 1


def test_two_judges_look_at_what_each_needs():
    fidelity, manifold = Pixels(5), Pixels(3)
    found = collect(images_of(50).split(8), Judges(fidelity, manifold), 20)
    assert (fidelity.seen, manifold.seen) == (50, 20)
    assert found.manifold.shape == (20, 3)


def test_samples_are_seen_as_the_pictures_that_are_written():
    judge, images = Pixels(), images_of(16)
    judges = Judges(judge, judge)
    samples = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.equal(collect([samples], judges, 16).manifold, collect([images], judges, 16).manifold)


def test_the_paper_protocol_sees_jpeg_as_pillow_writes_it(tmp_path):
    images = images_of(3)
    for image, got in zip(images, through_jpeg(images), strict=True):
        Image.fromarray(image.numpy()).save(tmp_path / "image.jpg", quality=75)
        assert np.array_equal(np.array(Image.open(tmp_path / "image.jpg")), got.numpy())
        assert not torch.equal(image, got)
    gray = images[..., :1]
    assert through_jpeg(gray).shape == gray.shape
    judge = Pixels()
    judges = Judges(judge, judge)
    plain, paper = (collect([images], judges, 3, PROTOCOLS[name].through).manifold for name in ("default", "paper"))
    assert not torch.equal(plain, paper)


def test_no_images_are_refused():
    judge = Pixels()
    with pytest.raises(InputError, match="no images"):
        collect([], Judges(judge, judge), 4)


@pytest.fixture
def looked(tmp_path):
    """looked(images, judge) -> (features, how many images the judge had to look at)."""

    def look(images, judge, manifold_images=20):
        judge.seen = 0
        found = reference_features(Dataset(images), Judges(judge, judge), manifold_images, tmp_path / "cache")
        return found, judge.seen

    return look


def test_a_reference_is_made_once(looked):
    images, judge = images_of(250), Pixels()
    made, seen = looked(images, judge)
    again, seen_again = looked(images.clone(), judge)
    assert (seen, seen_again) == (250, 0)
    assert torch.equal(made.manifold, again.manifold)
    assert frechet_distance(made.statistics, again.statistics) < 1e-12
    assert torch.equal(made.statistics.mean, again.statistics.mean)


def test_another_set_or_network_makes_another_reference(looked):
    images, judge = images_of(250), Pixels()
    looked(images, judge)
    changed = images.clone()
    changed[123, 4, 4, 1] ^= 1
    for other in ((changed, judge), (images[:-1], judge), (images, Pixels(identity="pixels 2")), (images, judge, 21)):
        assert looked(*other)[1] == len(other[0])


class Files(list):
    """A source of raw pixels, None for an image that is broken."""

    name, label = "files", list.__getitem__

    def read(self, index):
        if self[index] is None:
            raise DataError("broken")
        return self[index]


def test_a_changed_file_of_many_makes_another_reference(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "DECODED", 5)
    files, judge = Files(images_of(20).numpy()), Pixels()
    files[7] = None
    dataset = Images(files, (3, 8, 8), on_bad_image="skip")

    def seen():
        judge.seen = 0
        reference_features(dataset, Judges(judge, judge), 10, tmp_path)
        return judge.seen

    assert (seen(), seen()) == (20, 0)  # the broken image is known as such by then
    files[3] = files[5]  # none of those whose pixels are hashed
    assert (seen(), seen()) == (20, 0)
    dataset.skips = False
    with pytest.raises(DataError, match="broken"):
        seen()


def test_a_damaged_reference_is_made_again(looked, tmp_path, caplog):
    images, judge = images_of(50), Pixels()
    made, _ = looked(images, judge)
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-200])
    with caplog.at_level(logging.WARNING):
        again, seen = looked(images, judge)
    assert seen == 50 and "cannot be read" in caplog.text and "computing it again" in caplog.text
    assert torch.equal(made.manifold, again.manifold)
    assert looked(images, judge)[1] == 0


def test_a_cache_that_cannot_be_written_is_said_and_does_without(looked, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    with caplog.at_level(logging.WARNING):
        found, seen = looked(images_of(50), Pixels())
    assert seen == 50 and found.statistics.count == 50 and "the features are not kept" in caplog.text


def test_a_reference_of_fewer_images_is_not_taken(looked, tmp_path):
    made, _ = looked(images_of(50), Pixels())
    (path,) = (tmp_path / "cache").iterdir()
    np.savez(path, manifold=made.manifold.numpy(), **(made.statistics.to_dict() | {"count": np.array(49)}))
    assert looked(images_of(50), Pixels())[1] == 50


def test_the_manifold_is_of_all_parts_of_a_sorted_set(looked):
    images = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 8, 8, 3).contiguous()
    found, _ = looked(images, Pixels())
    shades = (found.manifold[:, 0] * 255).round()
    assert len(shades.unique()) == 20 and shades.min() < 60 and shades.max() > 190
