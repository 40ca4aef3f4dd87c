"""`python two_ranks.py OUT CACHE` with the variables of torchrun: rank 0 writes the row of a tiny model on digits to OUT/row.json."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from ddgan_fast import DDGANPipeline
from ddgan_fast.data.datasets import open_dataset
from ddgan_fast.distributed import together
from ddgan_fast.evaluation.scoring import Judges
from ddgan_fast.experiments.score import score_images


class Corner:
    """An extractor whose features are the low bits of four pixels, which real and drawn images share."""

    name, dim, identity, metric_prefix = "corner", 4, "corner", "corner-"

    def __call__(self, images):
        features = (images[:, 0, 3:5, 3:5].flatten(1) % 32).float()
        return SimpleNamespace(features=features, probabilities=(features / 8).softmax(1))


def main(out, cache):
    torch.manual_seed(0)
    pipe, judge = DDGANPipeline.from_preset("tiny"), Corner()
    with together(torch.device("cpu"), 60):
        dataset = open_dataset("digits", pipe.config.model)
        row = score_images(pipe, dataset, Judges(judge, judge), out / cache, num_images=101, batch_size=16)
    if row is not None:
        (out / "row.json").write_text(json.dumps(row))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
