"""`ddgan export`: a generator as an engine's folder, compared with the network before it gets its name."""

import importlib.metadata
import platform

import torch

from ddgan_fast import __version__
from ddgan_fast.checkpoint.model import fingerprint
from ddgan_fast.engines import aot, tensorrt, tensorrt_build, torch_tensorrt, triton_repo
from ddgan_fast.engines.export import MOST_IMAGES, make_graph, write_onnx
from ddgan_fast.engines.manifest import FILES, REPOSITORY, check_target, write_engine
from ddgan_fast.engines.onnx_check import check_precision
from ddgan_fast.engines.opening import default_engine, start
from ddgan_fast.engines.verify import verify
from ddgan_fast.errors import InputError, MissingError

FORMATS = (*FILES, REPOSITORY)
WITH_PROFILES = "tensorrt", "torch-tensorrt", REPOSITORY
DEFAULT_BATCHES = {True: (1, 16, 100), False: (1, 2, 5)}  # by whether the format is built for its batches
PACKAGES = "onnx", "onnxscript", "onnxruntime", "openvino", "torch-tensorrt"


def build_engine(
    generator,
    config,
    schedule,
    out,
    kind,
    target,
    precision="fp32",
    batches=None,
    *,
    check=True,
    capability=None,
    timing_cache=None,
    plan=False,
):
    """Write the engine's folder and return its manifest.

    generator: on the device that the engine is for, schedule too.  kind: a name of FORMATS.  batches: sizes it is built for or compared at.
    check: compare it with the network.  capability: "8.9" for TensorRT-RTX, which builds for GPUs that are not here.  timing_cache: file of
    TensorRT's timings, read and written.  plan: a repository holds a TensorRT plan in place of ONNX.
    Raises InputError for a wrong argument, MissingError for what is not installed, CheckpointError where the build or the comparison fails;
    nothing is written then.
    """
    if kind not in FORMATS:
        raise InputError(f"format {kind!r}: there are {', '.join(FORMATS)}")
    batches = batches or DEFAULT_BATCHES[kind in WITH_PROFILES]
    holds = kind if kind != REPOSITORY else "tensorrt" if plan else "onnx"
    if (capability or timing_cache) and kind != "tensorrt":
        raise InputError(f"a compute capability and a timing cache belong to format tensorrt, and this is {kind}")
    if plan and kind != REPOSITORY:
        raise InputError(f"a plan in place of ONNX belongs to format {REPOSITORY}, and this is {kind}")
    if max(batches) > MOST_IMAGES:
        raise InputError(f"a batch of {max(batches)}: a graph takes up to {MOST_IMAGES}")
    if target == "step" and config.diffusion.prediction != "x0":
        raise InputError(f"target 'step' of a model that predicts {config.diffusion.prediction}: its output is x0; take --target sampler")
    check_target(out)
    if holds == "tensorrt":  # before minutes of work
        # Triton runs plans of full TensorRT alone
        tensorrt_build.target_of(capability, tensorrt.LIBRARIES[:1] if plan else tensorrt.LIBRARIES)
    graph = make_graph(generator, schedule, target, precision, batch_first=kind == REPOSITORY)
    facts = {
        "format": kind, "target": target, "precision": precision, "name": config.name, "model": fingerprint(generator, config),
        "steps": schedule.steps, "batches": list(batches),
        "inputs": [vars(port) for port in graph.inputs], "output": vars(graph.output), "versions": versions(),
    }  # fmt: skip

    def fill(folder):
        path = folder / FILES[holds]
        built = write_file(holds, graph, path, batches, capability, timing_cache)
        report = verified(path, holds, graph, generator, schedule, batches, built) if check else {"skipped": "--no-verify"}
        if kind == REPOSITORY:
            triton_repo.write_repository(folder, config.name, graph, path, batches, holds)
            for file in FILES.values():
                (folder / file).unlink(missing_ok=True)
        return facts | {"built": built, "verification": report}

    return write_engine(out, fill)


def write_file(kind, graph, path, batches, capability, timing_cache):
    """Write the file of a format; what the manifest says of what it was built with."""
    weight = next(graph.module.parameters())
    if kind == "pt2":
        aot.write_pt2(graph, path)
        return aot.facts(weight.device)
    if kind == "torch-tensorrt":
        torch_tensorrt.write(graph, batches, path)
        return torch_tensorrt.facts(weight.device)
    onnx = path.with_name(FILES["onnx"])
    write_onnx(graph, onnx)
    check_precision(onnx, graph.precision)
    with torch.cuda.device_of(weight):  # TensorRT builds for the current device
        return {} if kind == "onnx" else tensorrt_build.build_plan(onnx, path, batches, capability, timing_cache)


def verified(path, kind, graph, generator, schedule, batches, built):
    """The report of `verify`. A plan for a GPU that is not here is not run: the ONNX that it was built from is compared in its place."""
    device, compared = schedule.posterior.device, {}
    if kind == "tensorrt" and (reason := tensorrt.refuses(built, device)):
        path, kind, compared = path.with_name(FILES["onnx"]), "onnx", {"plan_not_run": reason}
    try:
        runner = start(path, kind, default_engine(kind, graph.precision, device), built, graph.precision, device)
    except MissingError as error:
        raise MissingError(f"the export cannot be compared with the network: {error}; or skip that with --no-verify") from error
    return {"compared": getattr(runner, "name", kind)} | compared | verify(runner.run, graph, generator, schedule, batches)


def versions():
    """{package: version} of what an export depends on and is here."""
    found = {"ddgan_fast": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
