"""The folder of a run: begun anew, or gone on with."""

import fcntl
import logging
import os
import socket
from contextlib import contextmanager
from pathlib import Path

from ddgan_fast.checkpoint.folder import newest_checkpoint, sweep, write_json
from ddgan_fast.config import to_dict
from ddgan_fast.config_file import write_yaml
from ddgan_fast.errors import InputError, ResourceError
from ddgan_fast.pictures import whole_file
from ddgan_fast.training.state import TrainState

log = logging.getLogger(__name__)
CHANGEABLE = {"iterations", "log_every", "sample_every", "checkpoint_every", "keep", "workers", "data"}  # on resume


LOCK = ".lock"


@contextmanager
def locked(out):
    """Hold the run folder `out` (made where it is missing) for this process. Raises InputError where another process has it."""
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = open(out / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 - held until the end of the block
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{out}: a file; --out must name a folder") from error
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise InputError(f"{out}: another process trains here ({file.read().strip()}); stop it, or give another --out") from error
        try:
            file.truncate(0)
            file.write(f"pid {os.getpid()} on host {socket.gethostname()}\n")
            file.flush()
            yield
        finally:
            (out / LOCK).unlink(missing_ok=True)
            if not any(out.iterdir()):
                out.rmdir()


def open_run(out, config, environment, device="cpu", resume=False):
    """The TrainState to train on from: fresh, or from the newest intact checkpoint under `out` with resume.

    Writes config.yaml and env.json (`environment`, a plain dict).  Raises InputError where `out` holds another run or other
    files, where there is nothing to resume, or where settings differ from the run's that would make it another training.
    """
    out = Path(out)
    checkpoints = out / "checkpoints"
    if resume:
        if not checkpoints.is_dir():
            raise InputError(f"{out}: no run to resume here; leave --resume out to begin one")
        state = _resume(checkpoints, config, device)
    else:
        if out.exists() and {file.name for file in out.iterdir()} - {LOCK}:
            raise InputError(f"{out}: is not empty; give another --out, or --resume to go on with the run in it")
        state = TrainState(config, device)
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        with whole_file(out / "config.yaml") as temporary:
            write_yaml(temporary, config)
        with whole_file(out / "env.json") as temporary:
            write_json(temporary, environment)
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written: {error}") from error
    return state


def _resume(checkpoints, config, device):
    if left := sweep(checkpoints):
        log.warning("%s: %d unfinished save%s removed", checkpoints, left, "" if left == 1 else "s")
    path = newest_checkpoint(checkpoints)
    if path is None:
        log.warning("%s: no checkpoint yet; beginning from step 0", checkpoints)
        return TrainState(config, device)
    state = TrainState.load(path, device)
    now, then = to_dict(config), to_dict(state.config)
    changed = [f"{name}: {then[name]} -> {now[name]}" for name in then if now[name] != then[name] and name not in CHANGEABLE]
    if changed:
        raise InputError(f"{path}: the run was started with other settings: {'; '.join(changed)}. Resume without them, or begin a new run")
    state.config = config
    log.warning("resumed from %s", path.name)
    return state
