"""The folder of a run: begun anew, or gone on with."""

import json
import logging
from pathlib import Path

from ddgan_fast.checkpoint.folder import newest_checkpoint, sweep
from ddgan_fast.config import to_dict
from ddgan_fast.config_file import write_yaml
from ddgan_fast.errors import InputError, ResourceError
from ddgan_fast.training.state import TrainState

log = logging.getLogger(__name__)
CHANGEABLE = {"iterations", "log_every", "sample_every", "checkpoint_every", "keep", "workers", "data"}  # none moves a weight by itself


def open_run(out, config, environment, device="cpu", resume=False):
    """The TrainState to train on from: fresh, or from the newest intact checkpoint under `out` with resume.

    Writes config.yaml and env.json (`environment`, a plain dict).  Raises InputError where `out` holds another run or other
    files, where there is nothing to resume, or where settings differ from the run's that would make it another training.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file; --out must name a folder")
    checkpoints = out / "checkpoints"
    if resume:
        if not checkpoints.is_dir():
            raise InputError(f"{out}: no run to resume here; leave --resume out to begin one")
        state = _resume(checkpoints, config, device)
    else:
        if out.exists() and any(out.iterdir()):
            raise InputError(f"{out}: is not empty; give another --out, or --resume to go on with the run in it")
        state = TrainState(config, device)
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        write_yaml(out / "config.yaml", config)
        (out / "env.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
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
