"""The HTTP server (litserve): one process speaks HTTP (endpoints), one has the model (worker), and this one watches both."""

import multiprocessing
import os
import signal
import threading

import litserve
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.middleware.gzip import GZipMiddleware

from ddgan_fast.errors import CheckpointError, InputError, MissingError, ResourceError
from ddgan_fast.serving.bodies import Bodies
from ddgan_fast.serving.endpoints import Endpoints, printable
from ddgan_fast.serving.requests import Limits
from ddgan_fast.serving.worker import Batches, Model

HTTP_PROCESS, MODEL_PROCESS = "LitServer-0", "inference-worker"  # litserve's names of them
POLL_SECONDS = 0.1


async def wrong_body(request, error):
    """422 with what is wrong and where; the body itself, which FastAPI would repeat, may be large, or NaN, which JSON cannot carry."""
    found = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:5]]
    return JSONResponse({"detail": printable("; ".join(found))}, status_code=422)


def build(open_pipe, config, limits=None, batch_size=64, about=None):
    """The litserve.LitServer of a model.

    open_pipe: function without arguments that can be pickled -> DDGANPipeline, called in the model's process.  config: its Config.
    limits: requests.Limits.  batch_size: images drawn at once.  about: JSON object for GET /info.
    Raises InputError for a model of points.
    """
    if len(config.model.sample_shape) != 3:
        raise InputError("this model draws 2-D points; the server draws images")
    limits = limits or Limits()
    api = Model(open_pipe, batch_size, spec=Endpoints(config, limits), loop=Batches())
    server = litserve.LitServer(
        api,
        accelerator="cpu",  # open_pipe knows the device
        timeout=False,  # Endpoints has its own
        restart_workers=True,
        model_metadata=about,
        middlewares=[(Bodies, {"most": limits.body_bytes, "seconds": limits.body_seconds, "total": limits.bodies * limits.body_bytes})],
    )
    server.app.user_middleware = [each for each in server.app.user_middleware if each.cls is not GZipMiddleware]  # images are packed
    server.app.add_exception_handler(RequestValidationError, wrong_body)
    server.app.title = "ddgan_fast"
    return server


def run(server, host, port):
    """Serve until SIGTERM or Ctrl-C: then what was asked is answered, and nothing more is.

    Raises the kind of DDGANError that kept the model's process from starting, which said why, and ResourceError where a process died that
    is not begun anew.
    """
    watch = _Watch(server)
    signal.signal(signal.SIGTERM, watch.on_signal)
    signal.signal(signal.SIGINT, watch.on_signal)
    threading.Thread(target=watch.run, daemon=True).start()
    try:
        server.run(host=host, port=port, num_api_servers=1, log_level="error", generate_client_file=False)
    except KeyboardInterrupt:  # before litserve waited for it
        pass
    except RuntimeError as error:
        if "workers failed" not in str(error):
            raise
        kinds = {kind.exit_code: kind for kind in (InputError, CheckpointError, MissingError)}
        raise kinds.get(server.lit_api.failed.value, ResourceError)("the model's process did not start; its error is above") from error
    if watch.died:
        raise ResourceError(f"the process {watch.died} ended by itself")


class _Watch:
    """Ends the server, in a thread of the main process: on a signal, or where a process has died that litserve does not begin anew."""

    def __init__(self, server):
        limits = server.lit_api.spec.limits
        self.server, self.main, self.died = server, os.getpid(), None
        self.stop, self.drained = threading.Event(), False
        server.uvicorn_graceful_timeout = self.seconds = limits.body_seconds + limits.seconds + 1  # the longest that a request may take

    def on_signal(self, number, frame):
        """The handler of the main process; its forked children, which inherit it, are ended by it."""
        if os.getpid() != self.main:
            return
        self.stop.set()
        if self.drained:
            raise KeyboardInterrupt  # which makes litserve end what is left

    def run(self):
        """Wait for the end, and bring it about."""
        http = None
        while not self.stop.wait(POLL_SECONDS):
            http = http or next(iter(_children(HTTP_PROCESS)), None)
            if http is None:
                models = getattr(self.server, "inference_workers", [])
                dead = models and not any(process.is_alive() for process in models) and not self.server.lit_api.failed.value
            else:
                dead = not http.is_alive()
            if dead:
                self.died = MODEL_PROCESS if http is None else HTTP_PROCESS
                break
        for process in _children(HTTP_PROCESS):
            process.terminate()  # which it takes as the wish to finish
            process.join(self.seconds)
        self.server.launch_single_inference_worker = lambda *_: self.server.inference_workers[0]  # no new one for those that end here
        for process in _children(MODEL_PROCESS):
            process.kill()
        self.drained = True
        os.kill(self.main, signal.SIGTERM)


def _children(name):
    return [process for process in multiprocessing.active_children() if process.name == name]
