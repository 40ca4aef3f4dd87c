"""ONNX Runtime: the exported graph on a CPU, and with its CUDA and TensorRT providers on a GPU."""

import numpy as np
import torch

from ddgan_fast.engines.export import require
from ddgan_fast.engines.onnx_check import check_onnx
from ddgan_fast.errors import CheckpointError, DDGANError, MissingError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
OUT_OF_MEMORY = "failed to allocate memory", "out of memory", "bad_alloc", "bad allocation"  # of the arena, CUDA and C++
DTYPES = {True: torch.float32, False: torch.int64}  # of an input, by whether it holds floats


class Session:
    """An ONNX file that ddgan export wrote, in ONNX Runtime; `run` takes and gives torch tensors on the device."""

    def __init__(self, path, device, provider=None):
        """device: cpu or cuda.  provider: a name of PROVIDERS, by default the device's.

        Raises MissingError where ONNX Runtime or this provider is not there, CheckpointError for a file that it or `check_onnx` refuses.
        """
        runtime = require("onnxruntime", "onnx")
        check_onnx(path)
        self.device, name = device, PROVIDERS[provider or device.type]
        if name not in runtime.get_available_providers():
            raise MissingError(f"onnxruntime has no {name}: pip install onnxruntime-gpu in place of onnxruntime, or take --device cpu")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        providers = [(name, {})]
        if device.type == "cuda":  # what TensorRT leaves goes to CUDA, and nothing to the CPU in silence
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            where = {"device_id": str(device.index or 0)}
            providers = [(name, where)] if provider else []
            providers.append((PROVIDERS["cuda"], where | {"use_tf32": "0"}))
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # its errors share no base class
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{path}: ONNX Runtime's {name} refuses it: {reason}") from error
        used = self.session.get_providers()[0]
        if used != name:
            raise MissingError(f"onnxruntime has {name} but cannot start it, and took {used}: its CUDA or TensorRT libraries are missing")
        self.path, self.name = path, f"onnxruntime {runtime.__version__}, {name}"

    def run(self, inputs):
        """{name: tensor} -> the output, float32 on the device. Raises torch.OutOfMemoryError, DDGANError with ONNX Runtime's reason."""
        binding, where = self.session.io_binding(), (self.device.type, self.device.index or 0)
        dense = {name: value.to(self.device, DTYPES[value.is_floating_point()]).contiguous() for name, value in inputs.items()}
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # ONNX Runtime has a stream of its own
        for name, value in dense.items():
            kind = np.float32 if value.is_floating_point() else np.int64
            binding.bind_input(name, *where, kind, tuple(value.shape), value.data_ptr())
        first = next(iter(dense.values()))  # x, whose shape the output has
        output = torch.empty(first.shape, dtype=torch.float32, device=self.device)
        binding.bind_output(self.session.get_outputs()[0].name, *where, np.float32, tuple(output.shape), output.data_ptr())
        try:
            self.session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as error:  # its errors share no base class
            reason = str(error).strip().splitlines()[0]
            if any(words in str(error).lower() for words in OUT_OF_MEMORY):
                raise torch.OutOfMemoryError(f"{self.name}: {reason}") from error
            raise DDGANError(f"{self.path}: {self.name} cannot run a batch of {len(output)}: {reason}") from error
        return output
