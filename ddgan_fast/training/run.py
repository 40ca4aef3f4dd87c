"""The folder of a run: begun anew, or gone on with."""

import fcntl
import logging
import os
import socket
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import torch

from ddgan_fast.checkpoint.folder import newest_checkpoint, read_json, sweep, write_json
from ddgan_fast.checkpoint.model import read_config
from ddgan_fast.config import to_dict
from ddgan_fast.config_file import write_yaml
from ddgan_fast.distributed import barrier, rank_and_world
from ddgan_fast.errors import InputError, ResourceError
from ddgan_fast.pictures import whole_file
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import check

log = logging.getLogger(__name__)
# on resume, without --allow-inexact
CHANGEABLE = {"iterations", "log_every", "sample_every", "checkpoint_every", "keep", "on_nan", "checkpoint_activations"}
CHANGEABLE |= {"data", "workers", "on_bad_image"}
TOLD = "data", "iterations"  # of those: the same set may lie elsewhere, and a run be prolonged, which stretches the decay of its rates
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
        os.register_at_fork(after_in_child=file.close)  # or a worker that outlives this process would hold the lock
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(out / LOCK)):
                raise OSError("its lock was just given back; try again")
        except OSError as error:
            file.seek(0)
            raise InputError(f"{out}: another process trains here ({file.read().strip()}); stop it, or give another --out") from error
        try:
            file.truncate(0)
            file.write(f"pid {os.getpid()} on host {socket.gethostname()}\n")
            file.flush()
            yield
        finally:
            with suppress(OSError):  # on a disk that has become read-only; the lock ends with the file
                (out / LOCK).unlink(missing_ok=True)
                if not any(out.iterdir()):
                    out.rmdir()


@contextmanager
def shared_run(launch, out, config, environment, device="cpu", resume=False, allow_inexact=False):
    """The TrainState of every rank, inside the block in which the first one holds the folder; it alone writes there.

    launch: distributed.Launch; processes that torchrun has started again resume the run that those before them had opened.
    The rest as of `open_run`.
    """
    leads = rank_and_world()[0] == 0
    resume = resume or launch.has_opened()
    barrier()  # all have asked
    with locked(out) if leads else nullcontext():
        if leads:
            state = open_run(out, config, environment, device, resume, allow_inexact)
            launch.opened()
        barrier()  # the others read what the first has swept
        if not leads:
            state = continued(out, config, device, allow_inexact) if resume else TrainState(config, device)
        yield state


def open_run(out, config, environment, device="cpu", resume=False, allow_inexact=False):
    """The TrainState to train on from: fresh, or from the newest intact checkpoint under `out` with resume.

    Writes config.yaml and env.json (`environment`, a plain dict).  Raises what a Trainer would, and InputError where `out` holds another
    run or other files, where there is nothing to resume, or where the number of ranks or settings differ from the run's that would make
    it another training; with allow_inexact it may become one, of the same networks and diffusion.
    """
    out = Path(out)
    checkpoints = out / "checkpoints"
    check(config, torch.device(device))  # before anything is written
    if resume:
        if not checkpoints.is_dir():
            raise InputError(f"{out}: no run to resume here; leave --resume out to begin one")
        if left := sweep(checkpoints):
            log.warning("%s: %d unfinished save%s removed", checkpoints, left, "" if left == 1 else "s")
        sweep(out)
        sweep(out / "samples")
        state = continued(out, config, device, allow_inexact)
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


def continued(out, config, device="cpu", allow_inexact=False):
    """The TrainState of the newest intact checkpoint under `out`, with the settings of `config`. Errors as in `open_run`."""
    checkpoints = Path(out) / "checkpoints"
    path = newest_checkpoint(checkpoints)
    if path is None:
        log.warning("%s: no checkpoint yet; beginning from step 0", checkpoints)
        return TrainState(config, device)
    check_settings(path, config, allow_inexact)
    state = TrainState.load(path, device, config)
    log.warning("resumed from %s", path.name)
    return state


def check_settings(path, config, allow_inexact=False):
    """Raise InputError where the number of ranks, or settings, differ from those of a checkpoint: its run cannot go on with `config`."""
    where = path / "state.json"
    saved = read_json(where)
    old, world, before = read_config(saved.get("config"), where), rank_and_world()[1], saved.get("world", 1)
    now, then = to_dict(config), to_dict(old)
    changed = [("ranks", before, world)] * (before != world)
    changed += [(name, then[name], now[name]) for name in then if now[name] != then[name] and name not in CHANGEABLE]
    if told := [f"{name}: {then[name]} -> {now[name]}" for name in TOLD if now[name] != then[name]]:
        log.warning("%s goes on with %s", path.name, "; ".join(told))
    if not changed:
        return
    differences = "; ".join(f"{name}: {before} -> {after}" for name, before, after in changed)
    if config.model != old.model or config.diffusion != old.diffusion:
        raise InputError(f"{path}: the run is of another model: {differences}. Resume without these settings, or begin a new run")
    if not allow_inexact:
        raise InputError(
            f"{path}: the run was started with other settings: {differences}. Resume without them, or begin a new run; --allow-inexact "
            "goes on with the new ones, and the result is no longer that of one run"
        )
    log.warning("%s goes on with other settings: %s", path.name, differences)
