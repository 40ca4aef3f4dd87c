"""The classifier that names the modes of StackedMNIST (paper Table 3, after Lin et al. 2018): trained from the digits, then cached."""

import hashlib
import logging
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy, interpolate, pad

from ddgan_fast.checkpoint.folder import read_json, read_tensors, sha256, write_folder, write_json
from ddgan_fast.config import FORMAT_VERSION
from ddgan_fast.errors import CheckpointError, InputError, ResourceError
from ddgan_fast.precision import convolutions

log = logging.getLogger(__name__)
CLASSES = 10
DIM = 128
SIDE = 32
EPOCHS = 5
RECIPE = 1  # raised when the network or its training changes: a cache of another recipe is not read
_BATCH, _LR = 128, 4e-3
_WEIGHTS, _RECORD = "classifier.safetensors", "classifier.json"


class Classifier(nn.Module):
    """Ten classes of gray images: three convolutions, each halving the sides, and two linear layers; 156,000 weights.

    uint8 [B, 1, H, W] -> logits float32 [B, 10].  28x28 is padded to 32x32, as the training data is; any other size is resized.
    An image's logits depend on no other image, except in training, which normalises over the batch.
    """

    def __init__(self, channels=16):
        super().__init__()
        widths = (1, channels, 2 * channels, 4 * channels)
        self.convolutions = nn.Sequential(*(_halve(narrow, wide) for narrow, wide in zip(widths, widths[1:], strict=False)))
        self.hidden = nn.Linear(widths[-1] * (SIDE // 8) ** 2, DIM)
        self.last = nn.Linear(DIM, CLASSES)

    def features(self, images):
        """What the last layer sees: uint8 [B, 1, H, W] -> float32 [B, 128], none negative."""
        x = _fit(images.to(self.last.weight.device))
        return self.hidden(self.convolutions(x).flatten(1)).relu()

    def forward(self, images):
        return self.last(self.features(images))


def _halve(narrow, wide):
    """Convolution 3x3 to half the sides, normalised. Pooled first, so that the rest works on a quarter of the pixels."""
    return nn.Sequential(nn.Conv2d(narrow, wide, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(wide), nn.ReLU())


def _fit(images):
    """uint8 [B, 1, H, W] -> float32 [B, 1, 32, 32] in [0, 1]."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 1:
        raise InputError(f"images: {images.dtype} {list(images.shape)}; the classifier takes uint8 [B, 1, H, W]")
    x = images.float() / 255
    if images.shape[2:] == (28, 28):
        x = pad(x, (2, 2, 2, 2))
    elif images.shape[2:] != (SIDE, SIDE):
        x = interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
    return x.contiguous(memory_format=torch.channels_last)


def _check(images, labels):
    """Raises InputError unless there is a label, 0 to 9, for each image."""
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or not len(labels):
        raise InputError(f"labels: {labels.dtype} {list(labels.shape)} for images {list(images.shape)}; it must be int64, one per image")
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise InputError(f"labels: {labels.min()} to {labels.max()}; the classifier has the classes 0 to {CLASSES - 1}")


@convolutions(allow_tf32=False, benchmark=False)
def train_classifier(images, labels, seed=0, device="cpu", epochs=EPOCHS):
    """A `Classifier` in evaluation mode on the device, trained on all the images in `epochs` passes.

    images: uint8 [N, 1, H, W].  labels: int64 [N], 0 to 9.  On a CPU a seed gives the same classifier each time, bit by bit, for
    one version of torch and number of threads; torch's own generators stay as they were.
    """
    _check(images, labels)
    device = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier()
        order = torch.stack([torch.randperm(len(images)) for _ in range(epochs)])
    classifier.to(device, memory_format=torch.channels_last)
    images, labels = images.to(device), labels.to(device)
    optimizer = torch.optim.Adam(classifier.parameters(), fused=True)
    batches = [rows for epoch in order.to(device) for rows in epoch.split(_BATCH)]
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, len(batches), pct_start=0.2)
    for rows in batches:
        optimizer.zero_grad()
        cross_entropy(classifier(images[rows]), labels[rows]).backward()
        optimizer.step()
        rates.step()
    return classifier.eval().requires_grad_(False)


def classes(classifier, images, batch_size=500):
    """The likeliest class of each image: uint8 [N, 1, H, W] -> int64 [N] on the device of the images."""
    with torch.inference_mode(), convolutions(allow_tf32=False, benchmark=False):
        found = [classifier(batch).argmax(1) for batch in images.split(batch_size)]
    return torch.cat(found).to(images.device)


def accuracy(classifier, images, labels):
    """The fraction of images uint8 [N, 1, H, W] whose class is their label, int64 [N]."""
    _check(images, labels)
    return (classes(classifier, images) == labels).double().mean().item()


def stacked_labels(classifier, images):
    """The mode of each image of three digits: uint8 [B, 3, H, W] -> int64 [B] on its device, 100a + 10b + c of the digits a, b, c."""
    if images.dim() != 4 or images.shape[1] != 3:
        raise InputError(f"images: {list(images.shape)}; stacked digits are [B, 3, H, W]")
    digits = classes(classifier, images.flatten(0, 1)[:, None]).view(-1, 3)
    return (digits * digits.new_tensor([100, 10, 1])).sum(1)


def cached_classifier(folder, train, test, seed=0, device="cpu", epochs=EPOCHS):
    """(classifier, record): read from the folder where it was trained on these data before, else trained now and kept there.

    train, test: (images, labels) as `train_classifier` takes them; the labels of `test` serve `record["accuracy"]` alone.
    record: data_sha256, seed, epochs, accuracy on the test images, images of both sets, seconds of training, torch, device, sha256 of the
    weights.  Each recipe, data, seed and number of epochs has a subfolder; one that is damaged is made anew.  Where the
    folder cannot be written, a warning says so and the classifier serves this once.
    """
    _check(*test)
    device = torch.device(device)
    facts = {"recipe": RECIPE, "data_sha256": _hash(*train, *test), "seed": seed, "epochs": epochs}
    path = Path(folder) / f"classifier-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"
    if path.exists():
        try:
            return read_classifier(path, device, facts)
        except CheckpointError as error:
            log.warning("%s; training the classifier again", error)
    start = time.perf_counter()
    classifier = train_classifier(*train, seed, device, epochs)
    record = {
        "format_version": FORMAT_VERSION,
        **facts,
        "accuracy": accuracy(classifier, *test),
        "train_images": len(train[0]),
        "test_images": len(test[0]),
        "seconds": round(time.perf_counter() - start, 1),
        "torch": torch.__version__,
        "device": device.type,
    }
    try:
        write_folder(path, lambda temporary: _write(temporary, classifier, record))
    except ResourceError as error:
        log.warning("%s; the classifier is not kept", error)
    return classifier, record


def read_classifier(path, device="cpu", facts=None):
    """(classifier, record) of a subfolder that `cached_classifier` wrote.

    facts: {name: value} that the record must hold.  Raises CheckpointError where it is damaged, of another recipe, or not as `facts` say.
    """
    path = Path(path)
    record = read_json(path / _RECORD)
    for name, value in {"recipe": RECIPE, **(facts or {})}.items():
        if record.get(name) != value:
            raise CheckpointError(f"{path / _RECORD}: {name} is {record.get(name)!r}; it must be {value!r}")
    if not isinstance(record.get("accuracy"), float) or not 0 <= record["accuracy"] <= 1:
        raise CheckpointError(f"{path / _RECORD}: accuracy is {record.get('accuracy')!r}; it must be a number from 0 to 1")
    tensors = read_tensors(path / _WEIGHTS)
    if record.get("sha256") != sha256(path / _WEIGHTS):
        raise CheckpointError(f"{path / _WEIGHTS}: SHA-256 differs from {_RECORD}; the file was changed or cut off")
    classifier = Classifier()
    try:
        classifier.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path / _WEIGHTS}: not the tensors of a classifier: {error}") from error
    return classifier.to(device, memory_format=torch.channels_last).eval().requires_grad_(False), record


def _write(folder, classifier, record):
    save_file({name: tensor.cpu().contiguous() for name, tensor in classifier.state_dict().items()}, folder / _WEIGHTS)
    record["sha256"] = sha256(folder / _WEIGHTS)
    write_json(folder / _RECORD, record)


def _hash(*tensors):
    """Hex SHA-256 of the dtypes, shapes and values of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()
