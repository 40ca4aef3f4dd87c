"""`ddgan export`: a trained generator as a file for production."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ddgan_fast.cli_arguments import pick_device
from ddgan_fast.errors import InputError


@dataclass(frozen=True)
class Export:
    """Write an engine: `ddgan export --model DIR --format onnx --out engine`, and `ddgan sample --model DIR --engine-file engine` runs it.

    The engine is compared with the network before it gets its name; where it draws something else, nothing is written.
    """

    model: Path
    """A model folder, or a training run (its newest EMA)."""
    format: Literal["onnx", "tensorrt", "torch-tensorrt", "pt2", "triton-repo"]
    """onnx; tensorrt: a plan for this GPU; torch-tensorrt; pt2: AOTInductor, for C++; triton-repo: for NVIDIA Triton Inference Server."""
    out: Path
    """The engine's new folder."""
    target: Literal["step", "sampler"] = "sampler"
    """step: one network evaluation (x_t, t, z) -> x0; sampler: the whole loop (x_T, z, noise) -> image."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of convolutions and activations; norms, softmax and posterior stay float32, inputs and outputs too."""
    batch: str | None = None
    """Batch sizes with commas between, which plans are built for and which are compared; by default 1,16,100 for plans, else 1,2,5."""
    verify: bool = True
    """Compare with the network, on random inputs and on images; --no-verify skips that."""
    compute_capability: str | None = None
    """For TensorRT-RTX on a machine without the GPU: build for this one, as 8.9."""
    timing_cache: Path | None = None
    """tensorrt: file of TensorRT's timings, read where it fits and written, which makes the next build shorter."""
    plan: bool = False
    """triton-repo: a TensorRT plan in place of ONNX."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: where the engine is to run."""

    def run(self):
        from ddgan_fast.engines.building import build_engine
        from ddgan_fast.pipeline import DDGANPipeline

        batches = None
        if self.batch is not None:
            words = self.batch.split(",")
            if not all(word.isdecimal() and int(word) for word in words):
                raise InputError(f"--batch {self.batch}: give whole numbers of 1 or more, as 1,16,100")
            batches = sorted({int(word) for word in words})
        pipe = DDGANPipeline.from_pretrained(self.model).to(pick_device(self.device))
        manifest = build_engine(
            pipe.generator, pipe.config, pipe.schedule, self.out, self.format, self.target, self.precision, batches,
            check=self.verify, capability=self.compute_capability, timing_cache=self.timing_cache, plan=self.plan,
        )  # fmt: skip
        for line in report(manifest["verification"]):
            print(line)
        for line in manifest["built"].get("notes", []):
            print(line)
        size = sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())
        then = "README.md in it says how to serve it" if self.format == "triton-repo" else "draw with: ddgan sample --model "
        most = f" --batch-size {max(manifest['batches'])}" if manifest["format"] in ("tensorrt", "torch-tensorrt") else ""
        then += "" if self.format == "triton-repo" else f"{self.model} --engine-file {self.out} --num-images 64{most}"
        print(f"{self.out}: {self.format} of {self.target}, {self.precision}, {size / 1e6:.1f} MB; {then}")


def report(verification):
    """The lines that say how near the engine is to the network."""
    if "skipped" in verification:
        yield "not verified (--no-verify): random inputs, sampled images and latency were not compared with the network"
        return
    if reason := verification.get("plan_not_run"):
        yield f"the plan itself was not run: {reason}; compared is the ONNX that it was built from"
    yield f"compared with the plain network in float32, on {verification['compared']}:"
    for batch, found in verification["random_inputs"].items():
        yield f"  random inputs, batch {batch:>4}: largest error {found['max_error']:.1e}, PSNR {found['psnr']:.1f} dB"
    found, speed = verification["images"], verification["speed"]
    largest = f"largest error {found['max_error']:.1e}, {found['levels']} of 255 levels"
    yield f"  {found['count']} sampled images: {largest}, PSNR {found['psnr']:.1f} dB"
    ratio = speed["plain_ms"] / speed["engine_ms"]
    yield f"  batch {speed['batch']}: {speed['engine_ms']} ms, plain network {speed['plain_ms']} ms: {ratio:.2f} times as fast"
