"""Ends a training run at random moments, resumes it each time, and compares it with one that nothing ended.

`python tests/training/kill_runs.py --kills 40 --out DIR [--signal TERM]`. The runs are forked from a process that has torch loaded: a
fresh process would take seconds for each.
"""

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # CUDA does not survive a fork
import torch
from tqdm import tqdm

from ddgan_fast.checkpoint.folder import newest_checkpoint, verify
from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.errors import DDGANError
from ddgan_fast.training.loop import train
from ddgan_fast.training.run import locked, open_run

FILES = ["generator", "ema", "discriminator", "optim_g", "optim_d"]
PATIENCE = 20.0  # seconds for an orderly end, and for a checkpoint to come
NOT_OF_THE_RUN = {"images_per_s", "data_wait_percent", "peak_memory_mb"}  # fields of metrics.jsonl
CONFIG = override(
    preset("tiny"),
    {
        "lr_decay": False,
        "flip": True,
        "dropout": 0.1,
        "r1_every": 2,
        "log_every": 1,
        "sample_every": 10**9,
        "checkpoint_every": 1,
        "keep": 2,
    },
)


def run(out, **changes):
    """Begin or go on with the run in `out`."""
    config = override(CONFIG, changes)
    with locked(out):
        state = open_run(out, config, {}, resume=(out / "checkpoints").is_dir())
        train(state, open_loader(config, "cpu"), out)


def fork(out, **changes):
    """The process that runs; it exits as `ddgan train` does, and writes what it has to say to <out>.log."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        tqdm.set_lock(threading.RLock())  # the default one is shared with the other children, one of which may have died with it
        run(out, **changes)
        code = 0
    except DDGANError as error:
        print(error, file=sys.stderr, flush=True)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def require(holds, out, text):
    if not holds:
        sys.exit(f"{text}\n{Path(f'{out}.log').read_text()[-3000:]}")


def checkpoints(out):
    return sorted((out / "checkpoints").glob("checkpoint-*"))


def wait_for(happens, out, child):
    deadline = time.monotonic() + PATIENCE
    while not happens():
        require(os.waitpid(child, os.WNOHANG) == (0, 0), out, "the run ended by itself")
        require(time.monotonic() < deadline, out, f"no checkpoint in {PATIENCE:.0f} s")
        time.sleep(0.001)


def end(out, number, moment, delay):
    """Start the run, send it the signal `delay` seconds after the moment; seconds that its end took.

    moment: "start"; "step", when it has written its first checkpoint; "save", when it begins to.
    """
    before = checkpoints(out)[-1:]
    child = fork(out, iterations=10**6)
    if moment == "step":
        wait_for(lambda: checkpoints(out)[-1:] != before, out, child)
    if moment == "save":
        wait_for(lambda: list((out / "checkpoints").glob(f".tmp-*-{child}")), out, child)
    time.sleep(delay)
    os.kill(child, number)
    begin = time.monotonic()
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        require(time.monotonic() < begin + PATIENCE, out, f"still there {PATIENCE:.0f} s after signal {number}")
        time.sleep(0.001)
    want = -number if number == signal.SIGKILL else 128 + number
    code = os.waitstatus_to_exitcode(ended[1])
    require(code == want, out, f"exit status {code} after signal {number}, not {want}")
    return time.monotonic() - begin


def finish(out, **changes):
    code = os.waitstatus_to_exitcode(os.waitpid(fork(out, **changes), 0)[1])
    require(code == 0, out, f"exit status {code} of a run that was left alone")


def contents(out):
    """What must be equal: bytes of the newest checkpoint's tensors, and the lines of metrics.jsonl."""
    files = {name: (newest_checkpoint(out / "checkpoints") / f"{name}.safetensors").read_bytes() for name in FILES}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return files | {"metrics": [{name: value for name, value in line.items() if name not in NOT_OF_THE_RUN} for line in lines]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    torch.set_num_threads(1)
    begin, chance, number = time.monotonic(), random.Random(words.seed), signal.Signals[f"SIG{words.signal}"]
    killing = number == signal.SIGKILL
    out, whole = words.out / "killed", words.out / "whole"
    run(words.out / "warm", iterations=1)  # what torch imports with its first step, all children have

    unfinished = verified = 0
    longest = 0.0
    for i in range(words.kills):
        moment = ("start", "step", "save")[i % 3] if killing else "step"  # nobody listens to SIGTERM before training begins
        longest = max(longest, end(out, number, moment, chance.uniform(0, 0.02 if moment == "save" else 0.2)))
        left = list((out / "checkpoints").glob(".tmp-*"))
        require(killing or not left, out, f"an orderly end left {left}")
        unfinished += len(left)
        for path in checkpoints(out):
            verify(path)
            verified += 1
    last = int(checkpoints(out)[-1].name.split("-")[1]) + 4
    finish(out, iterations=last)
    finish(whole, iterations=last, checkpoint_every=last)
    left = [*(out / "checkpoints").glob(".*"), *out.glob(".lock")]
    require(not left, out, f"the finished run still has {left}")
    killed, want = contents(out), contents(whole)
    differ = [name for name in want if killed[name] != want[name]]
    require(not differ, out, f"differs from the uninterrupted run: {differ}")
    require(not killing or words.kills < 20 or unfinished, out, "no kill fell into a save")
    print(
        f"{words.kills} {number.name} in {time.monotonic() - begin:.0f} s, {unfinished} in a save, the longest end {longest:.2f} s; "
        f"0 of {verified} checkpoints corrupt; step {last} bit for bit as without"
    )


if __name__ == "__main__":
    main()
