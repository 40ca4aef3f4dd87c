"""A graph's file as a model repository of NVIDIA Triton Inference Server, with the command that serves it and a client."""

import re
import shutil

from ddgan_fast.engines.export import BATCH
from ddgan_fast.errors import InputError

BACKENDS = {"onnx": ("onnxruntime", "model.onnx"), "tensorrt": ("tensorrt", "model.plan")}  # of a format: Triton's backend, its file's name
TYPES = {"float32": "FP32", "int64": "INT64"}
QUEUE_DELAY_US = 1000  # how long a request waits for others to join its batch; one evaluation takes milliseconds


def write_repository(folder, name, graph, model_file, batches, platform):
    """Write folder/models/<name>/{config.pbtxt, 1/model.onnx or model.plan} and folder/README.md.

    graph: export.Graph with the batch first in every port (make_graph with batch_first=True).  model_file: what was written from it.
    batches: sizes that the server should make of joined requests; the largest is the limit.  platform: "onnx" or "tensorrt".
    Raises InputError for another platform, a name that is no plain file name, and a graph with the batch elsewhere.
    """
    if platform not in BACKENDS:
        raise InputError(f"platform {platform!r}: a Triton repository holds {' or '.join(BACKENDS)}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"model name {name!r}: it names a folder of the repository, in letters, digits and . _ - alone")
    for port in (*graph.inputs, graph.output):
        if port.shape[0] != BATCH:
            raise InputError(f"{port.name} is {list(port.shape)}: Triton joins requests along the first dimension; take batch_first=True")
    version = folder / "models" / name / "1"
    version.mkdir(parents=True)
    shutil.copyfile(model_file, version / BACKENDS[platform][1])
    (version.parent / "config.pbtxt").write_text(config(name, graph, batches, platform))
    (folder / "README.md").write_text(readme(name, graph, platform))


def config(name, graph, batches, platform):
    """The text of config.pbtxt: Triton's ModelConfig, in which sizes are without the batch."""
    preferred = ", ".join(str(size) for size in sorted(batches) if size > 1)
    return f"""name: "{name}"
backend: "{BACKENDS[platform][0]}"
max_batch_size: {max(batches)}
input [
{_ports(graph.inputs)}
]
output [
{_ports([graph.output])}
]
dynamic_batching {{
  preferred_batch_size: [ {preferred} ]
  max_queue_delay_microseconds: {QUEUE_DELAY_US}
}}
instance_group [ {{ count: 1, kind: {"KIND_GPU" if platform == "tensorrt" else "KIND_AUTO"} }} ]
"""


def readme(name, graph, platform):
    """The text of README.md: how to serve the repository, what it takes, and a client in Python."""
    serve = 'docker run --rm{} -p 8000:8000 -p 8001:8001 -v "$PWD/models:/models" \\\n'
    serve += "  nvcr.io/nvidia/tritonserver:<tag>-py3 tritonserver --model-repository=/models"
    on_gpu, on_cpu = serve.format(" --gpus all"), serve.format("")
    where = {
        "onnx": f"A GPU is used if Docker passes one on. Without one:\n\n```bash\n{on_cpu}\n```",
        "tensorrt": "The plan runs on the GPU model and TensorRT that built it (`manifest.json`): take a `<tag>` with that TensorRT.",
    }
    ports = *graph.inputs, graph.output
    rows = "\n".join(f"| `{port.name}` | {port.dtype} | [{client_sizes(port, BATCH)}] | {port.meaning} |" for port in ports)
    drawn = "\n".join(f'    "{port.name}": {_drawn(port, graph.steps)},' for port in graph.inputs)
    made = {"step": "One evaluation of the network; the loop over t is the client's.", "sampler": "The whole sampler: noise to images."}
    return f"""# {name} in NVIDIA Triton Inference Server

{made[graph.target]} `<tag>` is a release of the server, such as `25.08`.

```bash
{on_gpu}
```

{where[platform]}

| tensor | type | shape | holds |
|---|---|---|---|
{rows}

A client (`pip install "tritonclient[http]"`):

```python
import numpy as np
import tritonclient.http as triton

COUNT = 1
TYPES = {{"float32": "FP32", "int64": "INT64"}}
random = np.random.default_rng(0)
arrays = {{
{drawn}
}}
inputs = []
for name, array in arrays.items():
    inputs.append(triton.InferInput(name, list(array.shape), TYPES[array.dtype.name]))
    inputs[-1].set_data_from_numpy(array)
result = triton.InferenceServerClient("localhost:8000").infer("{name}", inputs).as_numpy("{graph.output.name}")
print(result.shape, result.min(), result.max())
```
"""


def client_sizes(port, *first):
    """Sizes that a client sends, as text, `first` for the batch: a port of [B] travels as [B, 1], since Triton knows no empty size."""
    return ", ".join(map(str, [*first, *(port.shape[1:] or [1])]))


def _ports(ports):
    texts = []
    for port in ports:
        reshape = "" if len(port.shape) > 1 else ", reshape: { shape: [ ] }"
        texts.append(f'  {{ name: "{port.name}", data_type: TYPE_{TYPES[port.dtype]}, dims: [ {client_sizes(port)} ]{reshape} }}')
    return ",\n".join(texts)


def _drawn(port, steps):
    sizes = client_sizes(port, "COUNT")
    return f"np.full(({sizes}), {steps - 1}, np.int64)" if port.dtype == "int64" else f"random.standard_normal(({sizes}), np.float32)"
