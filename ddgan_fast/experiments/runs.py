"""The runs that an experiment trains in its own folder, and goes on with when the same command is given again."""

import time
from contextlib import suppress

from ddgan_fast.checkpoint.folder import newest_checkpoint, read_json, write_json
from ddgan_fast.config import Config, to_dict
from ddgan_fast.config_file import read_yaml
from ddgan_fast.data import open_loader
from ddgan_fast.environment import collect
from ddgan_fast.errors import CheckpointError, InputError, StoppedError
from ddgan_fast.experiments.point_baselines import Training
from ddgan_fast.pictures import whole_file
from ddgan_fast.training.loop import train
from ddgan_fast.training.run import LOCK, locked, open_run

COST = "cost.json"  # the step that training came to, and the seconds until then, or null


def check_run(run, config):
    """Raise InputError where the folder holds a run of other settings, or something else."""
    if not run.is_dir() or {file.name for file in run.iterdir()} <= {LOCK}:
        return
    if not (run / "config.yaml").exists():
        raise InputError(f"{run}: holds no run (there is no config.yaml); give another --out, or remove it")
    there, here = to_dict(read_yaml(run / "config.yaml", Config())), to_dict(config)
    if differ := [f"{name}: {there[name]} -> {here[name]}" for name in here if there[name] != here[name]]:
        raise InputError(f"{run}: was trained with other settings: {'; '.join(differ)}; give another --out, or remove it")


def finish(run, config, device):
    """Train what is left of a run, and its Training; nothing is touched in one that is finished.

    The Training is None where the seconds are not known: a process ended on the way, not by a signal that it heeded, or another command
    trained the run.
    Raises what training.run.open_run and training.loop.train raise.
    """
    newest = newest_checkpoint(run / "checkpoints") if (run / "checkpoints").is_dir() else None
    if newest is None or int(newest.name.rpartition("-")[2]) < config.train.iterations:
        _train(run, config, device)
    seconds = _seconds(run, config.train.iterations)
    return None if seconds is None else Training(seconds, 1e3 * seconds / config.train.iterations)


def _train(run, config, device):
    with locked(run):
        state = open_run(run, config, collect(), device, resume=(run / "checkpoints").is_dir())
        before, start = _seconds(run, state.step), time.perf_counter()
        try:
            train(state, open_loader(config, device), run)
        except StoppedError as error:
            text = f"{run}: stopped at step {state.step} and saved; the same command goes on from there"
            raise StoppedError(text, error.exit_code - 128) from error
        finally:
            seconds = None if before is None else before + time.perf_counter() - start
            with suppress(OSError), whole_file(run / COST) as temporary:  # what ended the training says more than a full disk here
                write_json(temporary, {"step": state.step, "seconds": seconds})


def _seconds(run, step):
    """What the training of a run took until a step, None where that is not known."""
    try:
        kept = read_json(run / COST) if step else {"step": 0, "seconds": 0.0}
    except CheckpointError:
        return None
    return kept.get("seconds") if kept.get("step") == step else None
