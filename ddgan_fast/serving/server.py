"""The HTTP server (litserve): one process speaks HTTP (endpoints), one has the model (worker), and this one watches both."""

import multiprocessing
import os
import signal
import threading
import time

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
    """Serve until SIGTERM or Ctrl-C: then no more connections are taken, and what was asked is answered.

    Raises the kind of DDGANError that kept the model's process from starting, which said why, and ResourceError where the process that
    speaks HTTP has died.
    """
    main, api = os.getpid(), server.lit_api
    server.uvicorn_graceful_timeout = drain_seconds = api.spec.limits.seconds + 1
    died = []

    def drain(number, frame):
        if os.getpid() != main:  # a child that was forked with this handler: the main process ends it
            return
        for process in _children(HTTP_PROCESS):
            process.terminate()  # which it takes as the wish to finish
            process.join(drain_seconds)
        for process in _children(MODEL_PROCESS):
            process.kill()
        raise KeyboardInterrupt

    def guard():
        """End with the process that speaks HTTP, once it is there."""
        while not _children(HTTP_PROCESS):
            time.sleep(0.5)
        for process in _children(HTTP_PROCESS):
            process.join()
            if process.exitcode:
                died.append(process.exitcode)
                os.kill(main, signal.SIGTERM)

    signal.signal(signal.SIGTERM, drain)
    signal.signal(signal.SIGINT, drain)
    threading.Thread(target=guard, daemon=True).start()
    try:
        server.run(host=host, port=port, num_api_servers=1, log_level="error", generate_client_file=False)
    except KeyboardInterrupt:  # before litserve waited for it
        return
    except RuntimeError as error:
        if "workers failed" not in str(error):
            raise
        kinds = {kind.exit_code: kind for kind in (InputError, CheckpointError, MissingError)}
        raise kinds.get(api.failed.value, ResourceError)("the model's process did not start; its error is above") from error
    if died:
        raise ResourceError(f"the process that speaks HTTP ended with {died[0]}")


def _children(name):
    return [process for process in multiprocessing.active_children() if process.name == name]
