"""Exported engines on this device: what an export costs, and what its engine draws in a second beside the network's own engines.

`python -m benchmarks.engines [--preset cifar10] [--device cpu|cuda] [--targets step,sampler] [--engines onnx,openvino]` writes
results/<device>/engine_exports.csv, a row per target with the seconds and peak memory of `ddgan export --format onnx`, and
results/<device>/engines.csv, a row per engine and batch. Weights are random, of full size. A call goes from seeds to uint8 images; "plain"
is the network as released code runs it (benchmarks/sample.py). All calls of a batch take turns.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.harness import write_rows
from benchmarks.sample import Within, columns, make_pipe, on_reference, plain_call, plain_fir, timed
from ddgan_fast.bench import Truth
from ddgan_fast.pipeline import DDGANPipeline
from ddgan_fast.sampling import engine as engines

BATCHES = 1, 4
OWN = {"cpu": ("eager", "folded"), "cuda": ("eager", "folded", "graph")}


def export_rows(model, folder, preset, device, targets):
    """Rows of engine_exports.csv; each export is a process of its own, and the engines lie in folder/<target> afterwards."""
    for target in targets:
        words = ["export", "--model", model, "--format", "onnx", "--target", target, "--device", device.type, "--no-verify"]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ddgan_fast.cli", *map(str, words), "--out", folder / target], check=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3  # of the largest child so far
        size = (folder / target / "model.onnx").stat().st_size / 1e6
        yield {"preset": preset, "target": target, "seconds": round(seconds, 1), "peak_mb": round(peak), "file_mb": round(size, 1)}


def engine_rows(pipe, folder, preset, targets, names, seconds):
    """Rows of engines.csv."""
    generator, schedule, device = pipe.generator, pipe.schedule, pipe.device
    truth = Truth(generator, schedule, range(2))
    plain = Within(engines.build("eager", generator, schedule, "fp32"), on_reference, plain_fir)
    samplers = {(name, ""): engines.build(name, generator, schedule, "fp32") for name in OWN[device.type]}
    for target in targets:
        for name in names:
            opened = DDGANPipeline(generator, pipe.config).compile(name, engine_file=folder / target)
            samplers[name, target] = opened.sampler
    want = truth.images.clamp(-1, 1)
    errors = {key: (sampler.sample(truth.seeds.tolist()).clamp(-1, 1) - want).abs().max().item() for key, sampler in samplers.items()}
    errors["plain", ""] = (plain.sample(truth.seeds.tolist()).clamp(-1, 1) - want).abs().max().item()
    for batch in BATCHES:
        calls = {("plain", ""): partial(plain_call, plain, batch)}
        calls |= {key: partial(sampler.sample, range(batch), True) for key, sampler in samplers.items()}
        taken = timed(calls, device, seconds / len(BATCHES))
        median = {key: sorted(found)[len(found) // 2] for key, found in taken.items()}
        for (name, target), found in taken.items():
            times = {f"times_{other}": round(median[other, ""] / median[name, target], 3) for other in ("plain", "eager")} | {
                "largest_error": f"{errors[name, target]:.1e}"
            }
            case = {"preset": preset, "engine": name, "target": target, "precision": "fp32", "batch": batch}
            yield case | columns(found, batch) | times


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="cifar10")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    parser.add_argument("--targets", default="step,sampler")
    parser.add_argument("--engines", default="onnx,openvino")
    parser.add_argument("--seconds", type=float, default=240, help="of timed calls, about")
    args = parser.parse_args()
    targets, names = args.targets.split(","), args.engines.split(",")
    with tempfile.TemporaryDirectory() as name:
        work, made = Path(name), make_pipe(args.preset, args.device)
        made.save_pretrained(work / "model")
        write_rows("engine_exports", args.device, export_rows(work / "model", work, args.preset, args.device, targets))
        write_rows("engines", args.device, engine_rows(made, work, args.preset, targets, names, args.seconds))
