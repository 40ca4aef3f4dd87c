"""OpenVINO: the exported ONNX graph on a CPU."""

import functools

import torch

from ddgan_fast.engines.export import require
from ddgan_fast.engines.onnx_check import check_onnx
from ddgan_fast.errors import CheckpointError, MissingError


@functools.cache
def _core():
    """OpenVINO's Core, for good.

    Each Core with a CPU plugin gives the thread another stack for signals, and puts the one before back when it goes. Of two that go in the
    order in which they came, the second puts back the memory that the first had freed, and the next signal with a handler ends the process.
    """
    return require("openvino", "openvino").Core()


class Session:
    """An ONNX file that ddgan export wrote, in OpenVINO's CPU plugin; `run` takes and gives torch tensors on the CPU."""

    def __init__(self, path, device, precision):
        """precision: of the graph; a float32 one is computed in float32, which OpenVINO would not do on each CPU by itself.

        Raises MissingError without OpenVINO and for another device than a CPU, CheckpointError for a file that it or `check_onnx` refuses.
        """
        runtime = require("openvino", "openvino")
        if device.type != "cpu":
            raise MissingError("engine 'openvino' runs on a CPU: take --device cpu")
        check_onnx(path)
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
        if precision == "fp32":
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        try:
            self.request = _core().compile_model(str(path), "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise CheckpointError(f"{path}: OpenVINO refuses it: {str(error).strip().splitlines()[0]}") from error
        self.name = f"openvino {runtime.__version__.partition('-')[0]}, CPU"

    def run(self, inputs):
        """{name: tensor} -> the output, float32."""
        results = self.request.infer({name: value.contiguous().numpy() for name, value in inputs.items()})
        return torch.from_numpy(results[0].copy())
