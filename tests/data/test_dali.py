"""DALI against Pillow: pixels, order, resuming, bad images; its CPU pipeline runs here, its GPU pipeline is built as far as it can be."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nvidia.dali", reason="nvidia.dali is not installed")

from ddgan_fast.config import override, preset
from ddgan_fast.data import Loader, open_loader
from ddgan_fast.data import dali as dali_module
from ddgan_fast.data.dali import DaliLoader, pipeline
from ddgan_fast.data.decode import Images
from ddgan_fast.data.formats.folder import Folder
from ddgan_fast.errors import DataError, DDGANError, InputError, MissingError

SHAPE = (3, 32, 32)
SIZES = [
    (90, 61),
    (61, 90),
    (32, 32),
    (47, 33),
    (200, 200),
    (20, 24),
    (64, 48),
    (32, 45),
    (51, 32),
    (33, 100),
]  # shorter sides of 32 are cropped alone
LEVEL = 1 / 127.5


@pytest.fixture(autouse=True)
def _by_dali_itself(caplog):
    """Pillow stands in for DALI where it fails: then a comparison with Pillow would show nothing."""
    yield
    assert "decoded by Pillow" not in "".join(record.getMessage() for record in caplog.get_records("call"))


def smooth(number, size):
    """An image with structure at all scales, as a photo has."""
    random = np.random.default_rng(number)
    layers = [random.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (2, 6, 20)]
    grown = [np.asarray(Image.fromarray(layer).resize(size, Image.Resampling.BICUBIC), np.float32) for layer in layers]
    return Image.fromarray((0.5 * grown[0] + 0.35 * grown[1] + 0.15 * grown[2]).astype(np.uint8))


def write(folder, kind, change=lambda image: image, **options):
    for number, size in enumerate(SIZES):
        change(smooth(number, size)).save(folder / f"{number}.{kind.lower()}", kind, **options)
    return Images(Folder("set", sorted(map(str, folder.iterdir()))), SHAPE)


def loaders(images, batch=4, **options):
    return DaliLoader(images, batch, "cpu", **options), Loader(images, batch, "cpu", **options)


def take(loader, count, start=0):
    return list(islice(loader.batches(start), count))


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(
    "kind, options", [("PNG", {}), ("JPEG", {"quality": 90}), ("WEBP", {"lossless": True}), ("WEBP", {"quality": 90}), ("BMP", {})]
)
def test_pixels_are_those_of_pillow_to_two_levels(tmp_path, kind, options, channels):
    images = write(tmp_path, kind, **options)
    images.shape = (channels, 32, 32)
    ours, theirs = loaders(images, flip=True)
    # Pillow rounds to 8 bits between its two passes, and truncates where it makes gray
    for got, want in zip(take(ours, 4), take(theirs, 4), strict=True):
        assert got.shape == want.shape and got.dtype == torch.float32 and got.is_contiguous(memory_format=torch.channels_last)
        assert (got - want).abs().max() <= 2.01 * LEVEL
        assert (got - want).abs().mean() <= 0.6 * LEVEL


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path):
    smooth(1, (32, 32)).save(tmp_path / "a.png")
    images = Images(Folder("set", [str(tmp_path / "a.png")] * 2), SHAPE)
    ours, theirs = loaders(images, 2)
    torch.testing.assert_close(take(ours, 1)[0], take(theirs, 1)[0], rtol=0, atol=1e-6)


def with_alpha(image):
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


ODD = {
    "transparent": with_alpha,
    "palette": lambda image: image.quantize(16),
    "gray": lambda image: image.convert("L"),
    "black and white": lambda image: image.convert("1"),
    "16 bits": lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
}


@pytest.mark.parametrize("name", ODD)
def test_what_dali_would_draw_otherwise_is_decoded_by_pillow(tmp_path, name):
    ours, theirs = loaders(write(tmp_path, "PNG", ODD[name]))
    for got, want in zip(take(ours, 2), take(theirs, 2), strict=True):
        # beyond the edge of an image, Pillow leaves out what DALI repeats: one sees it where pixels are black or white
        assert (got - want)[:, :, 1:-1, 1:-1].abs().max() <= 2.01 * LEVEL
        assert (got - want).abs().max() <= 19.01 * LEVEL


def test_cmyk_and_upright_photos(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth(0, (90, 61)).save(tmp_path / "0.jpg", exif=exif)
    smooth(1, (61, 90)).convert("CMYK").save(tmp_path / "1.jpg")
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
    xmp += ' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    smooth(4, (90, 61)).save(tmp_path / "3.jpg", xmp=xmp.encode())
    smooth(2, (50, 40)).save(tmp_path / "2.jpg", "MPO", save_all=True, append_images=[smooth(3, (50, 40))])
    ours, theirs = loaders(Images(Folder("set", sorted(map(str, tmp_path.iterdir()))), SHAPE), 4)
    assert (take(ours, 1)[0] - take(theirs, 1)[0]).abs().max() <= 2.01 * LEVEL


def test_raw_pixels(tmp_path):
    class Raw:
        name = "raw"

        def __len__(self):
            return 4

        def label(self, index):
            return str(index)

        def read(self, index):
            return np.asarray(smooth(index, (48, 48)))

    ours, theirs = loaders(Images(Raw(), SHAPE))
    assert (take(ours, 1)[0] - take(theirs, 1)[0]).abs().max() <= 2.01 * LEVEL


def test_started_later_and_shared_by_ranks_it_gives_the_same(tmp_path):
    images = write(tmp_path, "JPEG")
    want = take(DaliLoader(images, 4, "cpu", seed=3, flip=True), 6)
    for start in (1, 2, 3):
        got = take(DaliLoader(images, 4, "cpu", seed=3, flip=True, workers=2), 3, start)
        assert all(torch.equal(a, b) for a, b in zip(got, want[start : start + 3], strict=True))
    ranks = [take(DaliLoader(images, 4, "cpu", seed=3, rank=rank, world=2, flip=True), 6) for rank in (0, 1)]
    assert all(torch.equal(torch.cat(parts), whole) for *parts, whole in zip(*ranks, want, strict=True))


def damaged(content):
    """A PNG whose header is whole and whose pixels are not."""
    return content[: len(content) // 2] + b"\xff" * 40 + content[len(content) // 2 + 40 :]


@pytest.mark.parametrize(
    "damage", [damaged, lambda content: content[: len(content) // 2], lambda content: b""], ids=["pixels", "cut", "empty"]
)
def test_bad_images_are_named_or_skipped_and_the_rest_goes_on(tmp_path, damage, caplog):
    images = write(tmp_path, "PNG")
    for name in ("5.png", "6.png", "8.png"):
        (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(DataError, match="[568].png: (broken or truncated|empty)"):
        take(DaliLoader(images, 4, "cpu"), 9)
    images.skips = True
    ours, theirs = loaders(images)
    for got, want in zip(take(ours, 30), take(theirs, 30), strict=True):
        assert (got - want).abs().max() <= 2.01 * LEVEL
    left_out = [record.getMessage() for record in caplog.records if record.getMessage().startswith("left out")]
    assert len(left_out) == 3 and all(f"{number}.png" in "".join(left_out) for number in (5, 6, 8))
    assert sum("decoded by Pillow" in record.getMessage() for record in caplog.records) <= 9  # none once all three are known
    caplog.clear()


def test_the_batches_before_a_bad_one_come_first(tmp_path, caplog):
    images = write(tmp_path, "PNG")
    bad = Loader(images, 2, "cpu").order.share(3)[0]
    open(images.source.paths[bad], "wb").close()
    seen = []
    with pytest.raises(DataError, match="png: empty"):
        for batch in DaliLoader(images, 2, "cpu").batches():
            seen.append(batch)
    assert len(seen) == 3
    caplog.clear()


def test_dali_that_always_fails_is_an_error(tmp_path, monkeypatch, caplog):
    loader = DaliLoader(write(tmp_path, "PNG"), 4, "cpu")
    monkeypatch.setattr(loader, "_run", lambda pipe: (_ for _ in ()).throw(RuntimeError("no such operator")))
    with pytest.raises(DDGANError, match="DALI failed at 10 batches in a row, the last of step 10: no such operator; give --loader torch"):
        take(loader, 20)
    caplog.clear()


def test_half_precision(tmp_path):
    images = write(tmp_path, "PNG")
    got = take(DaliLoader(images, 4, "cpu", dtype=torch.float16), 1)[0]
    want = take(DaliLoader(images, 4, "cpu"), 1)[0]
    assert got.dtype == torch.float16 and torch.equal(got, want.half())


def test_the_pipeline_of_a_gpu_is_built_and_serialised():
    graph = pipeline(SHAPE, 8, 2, decoder="mixed", dtype=torch.float16)
    text = graph.serialize().decode("latin1")
    assert all(word in text for word in ("mixed", "Resize", "CropMirrorNormalize", "files", "mirror"))


@pytest.fixture
def config(tmp_path):
    write(tmp_path, "PNG")
    return override(preset("tiny"), {"data": str(tmp_path), "batch_size": 4, "image_channels": 3, "resident_gb": 0})


def test_what_is_chosen_and_why(config, caplog, monkeypatch):
    caplog.set_level("INFO")
    assert type(open_loader(config, "cpu")) is Loader and "torch loader: 0 workers; on a CPU" in caplog.text
    assert type(open_loader(override(config, {"loader": "dali", "resident_gb": 1}), "cpu")) is DaliLoader
    assert "dali loader: it was asked for" in caplog.text
    assert type(open_loader(override(config, {"loader": "torch"}), "cpu")) is Loader
    assert "10 items lie on the device" not in caplog.text
    open_loader(override(config, {"resident_gb": 1}), "cpu")
    assert "10 items lie on the device" in caplog.text
    with pytest.raises(InputError, match="give --loader torch"):
        open_loader(override(preset("tiny"), {"loader": "dali"}), "cpu")
    monkeypatch.setattr(dali_module, "refuses", lambda: "nvidia.dali is not installed: pip install X")
    with pytest.raises(MissingError, match="loader = 'dali': nvidia.dali is not installed: pip install X"):
        open_loader(override(config, {"loader": "dali"}), "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_on_a_gpu(tmp_path, kind):
    images = write(tmp_path, kind)
    theirs = take(Loader(images, 4, "cuda", flip=True), 4)
    ours = take(DaliLoader(images, 4, "cuda", flip=True), 4)
    for got, want in zip(ours, theirs, strict=True):
        assert got.device.type == "cuda"
        assert (got - want).abs().max() <= (8 if kind == "JPEG" else 2.01) * LEVEL  # nvJPEG's inverse DCT
