"""A program for test_extractors.py: torch-fidelity's networks with random weights, made in the folder that it is given.

torch-fidelity imports torchvision, which the tests do without: a stand-in is put in its place, so this must have a process of its own.
"""

import hashlib
import sys
import types
from pathlib import Path

import torch
from torch import nn


class VGG16(nn.Module):  # as torchvision's: a feature part, and seven layers of which the last three are cut off
    def __init__(self):
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Linear(3, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 9)
        )

    def forward(self, x):
        return self.classifier(x.mean((2, 3)))


def normalize(x, mean, std, inplace):
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


stubs = {
    name: types.ModuleType(name)
    for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.models")
}
sys.modules |= stubs
for name, module in stubs.items():
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(stubs[parent], own, module)
stubs["torchvision.datasets"].__dict__.update(CIFAR10=object, STL10=object, CIFAR100=object)
stubs["torchvision.transforms.functional"].normalize = normalize
stubs["torchvision.models"].vgg16 = VGG16

import torch_fidelity
import torch_fidelity.feature_extractor_inceptionv3 as source

from ddgan_fast.errors import CheckpointError
from ddgan_fast.evaluation.extractors import KINDS, open_extractor


class Empty(source.FeatureExtractorInceptionV3):  # the network before its weights are there
    def load_state_dict(self, state):
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


folder = Path(sys.argv[1])
source.load_state_dict_from_url = lambda *_, **__: None
torch.manual_seed(0)
torch.save(Empty("empty", ["2048"]).state_dict(), folder / "inception.pth")
torch.save(VGG16().state_dict(), folder / "vgg16.pth")
images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)


def check(name, layers, network):
    extractor = open_extractor(name, folder / f"{name}.pth")
    digest = hashlib.sha256((folder / f"{name}.pth").read_bytes()).hexdigest()
    assert extractor.metric_prefix == f"{name}-{digest[:8]}-", "a number of other weights must not be called FID"
    assert digest in extractor.identity and "torch-fidelity 0.4" in extractor.identity
    seen, want = extractor(images), network("own", layers, feature_extractor_weights_path=str(folder / f"{name}.pth"))(images)
    assert torch.equal(seen.features, want[0]) and seen.features.shape == (2, extractor.dim)
    assert (seen.features[0] - seen.features[1]).abs().max() > 1e-3 * seen.features.abs().max() > 0
    one = extractor(images[1:]).features[0]
    torch.testing.assert_close(one, seen.features[1], rtol=1e-4, atol=1e-4 * one.abs().max().item())
    assert torch.equal(extractor(images[:, :1]).features, extractor(images[:, :1].repeat(1, 3, 1, 1)).features)
    assert KINDS[name].sha256 in KINDS[name].url
    return seen, want


seen, want = check("inception", ["2048", "logits_unbiased"], torch_fidelity.FeatureExtractorInceptionV3)
assert torch.equal(seen.probabilities, want[1].softmax(1)) and seen.probabilities.shape == (2, 1008)
assert KINDS["inception"].prefix == "" and KINDS["inception"].url == source.URL_INCEPTION_V3
seen, _ = check("vgg16", ["fc2_relu"], torch_fidelity.FeatureExtractorVGG16)
assert seen.probabilities is None and seen.features.min() == 0


class Code:
    def __reduce__(self):
        return Path.mkdir, (folder / "ran",)


torch.save(Code(), folder / "code.pth")
for name in ("inception", "vgg16"):
    try:
        open_extractor(name, folder / "code.pth")
    except CheckpointError as error:
        assert f"code.pth: not the weights of {name}" in str(error)
    else:
        raise AssertionError(f"{name}: a pickle that is no state dict was taken")
    assert not (folder / "ran").exists(), "torch-fidelity unpickled a file that holds more than tensors"
print("done")
