"""Training on this device: a waterfall from a plain loop (benchmarks/plain_trainer.py) to the last technique, and what loading data costs.

`python -m benchmarks.train [--device cpu|cuda] [--preset cifar10 --batch 4] [--rounds 4] [--seconds 600] [--only waterfall|loader]
[--rival]` writes results/<device>/train.csv, a row per technique on top of those before it, and results/<device>/train_loader.csv.

All loops of a case start from the same weights, of full size, and take turns; a turn is steps with and without R1 that are queued behind
one another, and on a GPU its first one is not timed. `ms` is a step on average, with R1 as often as the preset has it; `ms_d` and `ms_g`
are its halves, `ms_d_r1` the half with R1. Images are random and lie on the device. A row is written only if the first two steps, on
the same noise, are those of the plain loop: `error` is the largest relative difference among D loss, R1 (the first step has it), G loss,
and the norms of both gradients.
`memory_mb`: on a GPU the peak of allocated memory that a loop adds; on a CPU the most that autograd keeps at once, weights aside.
"""

import argparse
import gc
import statistics
import time
from contextlib import contextmanager, nullcontext

import torch

from benchmarks.harness import spread, write_rows
from benchmarks.train_loops import Kept, numbers, techniques
from ddgan_fast.config import override, preset
from ddgan_fast.data.images import InMemory
from ddgan_fast.data.loader import Loader
from ddgan_fast.models import build_discriminator, build_generator
from ddgan_fast.training.probe import activation_bytes
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import Trainer

CASES = {"cuda": [("cifar10", 128), ("cifar10", 16), ("celebahq256", 32)], "cpu": [("cifar10", 4)]}  # most important first
LOADER_CASES = {"cuda": [("cifar10", 128)], "cpu": [("demo", 32)]}
LOADER_STEPS, SET_SIZE = {"cuda": 50, "cpu": 10}, 50_000  # steps of a turn; images of CIFAR-10
LIMITS = {"fp32": 1e-4, "tf32": 2e-2, "bf16": 5e-2}  # of `error`, for a row to be written
# steps: of a turn, one of them with R1, the first `lead` of them untimed; warm_up: steps before, after which a graph of R1 is recorded
RHYTHM = {"cuda": {"steps": 4, "lead": 1, "warm_up": 9}, "cpu": {"steps": 2, "lead": 0, "warm_up": 2}}
ROUNDS, LEAST_ROUNDS = {"cuda": 40, "cpu": 4}, 3
RATE = 1e-6  # Adam's first step moves every weight by it, whose direction is rounding noise for some
AT_ONCE = 1.5  # activations in memory at the same time, in those of one float32 loop: a recorded graph keeps its own


def moment(device):
    """Now: an event of a GPU's current stream, seconds of a CPU."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def ms_between(begin, end):
    return 1e3 * (end - begin) if isinstance(begin, float) else begin.elapsed_time(end)


def turn(loop, images, steps, lead):
    """[(ms of the D half, ms of the G half)] of the steps of a turn that are timed, the one with R1 at the end."""
    device, moments, has_r1 = images.device, [], []
    for _ in range(steps):
        has_r1.append(loop.count % steps == 0)
        found = [moment(device)]
        loop.step(images, lambda found=found: found.append(moment(device)))
        moments.append((*found, moment(device)))
    if device.type == "cuda":
        torch.cuda.synchronize()
    times = [(ms_between(begin, middle), ms_between(middle, end)) for begin, middle, end in moments]
    return [times[i] for i in sorted(range(lead, steps), key=has_r1.__getitem__)]


@contextmanager
def memory_of(device):
    """Yields a list that holds, behind the block, the MB that it added to the allocated memory of a GPU at the most."""
    found = []
    if device.type == "cuda":
        gc.collect()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    yield found
    if device.type == "cuda":
        torch.cuda.synchronize()
        found.append(round((torch.cuda.max_memory_allocated() - before) / 1e6))


def prepared(build, config, images, want, limit):
    """(Plain or Ours behind its warm-up, {memory_mb, error}, numbers of its first two steps).

    want: the numbers that those must have, None for the plain loop itself.  Raises ValueError where they have others.
    """
    device, warm_up = images.device, RHYTHM[images.device.type]["warm_up"]
    with memory_of(device) as memory:
        loop = build(config, device)
        kept = Kept([p for network in loop.networks for p in network.parameters()])
        found = []
        for _ in range(2):
            with nullcontext() if device.type == "cuda" else kept.count():
                loop.step(images, lambda: None)
            found += numbers(loop)
        error = max(abs(a - b) / abs(b) for a, b in zip(found, want or found, strict=True) if b)
        if not error <= limit:
            raise ValueError(f"its first steps differ by {error:.1e}, the limit is {limit:.0e}")
        loop.draw_freely()
        for _ in range(warm_up - 2):
            loop.step(images, lambda: None)
    return loop, {"memory_mb": memory[0] if memory else round(kept.most / 1e6), "error": f"{error:.1e}"}, found


def fitting(name, batch, device):
    """The batch, halved until the loops of a case fit the memory of a GPU together."""
    config = preset(name)
    with torch.device("meta"):
        networks = build_generator(config.model), build_discriminator(config.model)
    weights = 4 * 5 * sum(p.numel() for network in networks for p in network.parameters()) * len(techniques(True, True))
    while device.type == "cuda" and batch > 1:
        if AT_ONCE * activation_bytes(config, networks, batch) + weights < 0.9 * torch.cuda.get_device_properties(device).total_memory:
            break
        batch //= 2
    return batch


def waterfall_rows(device, cases, rounds, seconds, with_rival=False):
    """Rows of train.csv; each of the cases (preset, batch) gets an equal share of the seconds that are left."""
    begin = time.perf_counter()
    for done, (name, batch) in enumerate(cases):
        share = (seconds - (time.perf_counter() - begin)) / (len(cases) - done)
        yield from case_rows(device, name, fitting(name, batch, device), rounds, time.perf_counter() + share, with_rival)


def case_rows(device, name, batch, rounds, until, with_rival):
    """Rows of one case: rounds of turns, at least LEAST_ROUNDS or `rounds` of them even where time.perf_counter() passes `until`."""
    torch.compiler.reset()
    rhythm, every = RHYTHM[device.type], preset(name).train.r1_every
    changes = {"batch_size": batch, "r1_every": rhythm["steps"], "iterations": 10**6, "lr_decay": False}
    config = override(preset(name), changes | dict.fromkeys(("lr_g", "lr_d"), RATE))
    images = torch.rand(batch, *config.model.sample_shape, device=device) * 2 - 1
    loops, columns, want = {}, {}, None
    for technique, precision, build in techniques(device.type == "cuda", with_rival):
        try:
            loops[technique], columns[technique], found = prepared(build, config, images, want, LIMITS[precision])
        except Exception as problem:  # whatever one loop dies of, the others go on
            text = str(problem).strip().partition("\n")[0]
            print(f"no row for {technique}, {name} at {batch}: {type(problem).__name__}: {text}", flush=True)
            continue
        finally:
            gc.collect()
        columns[technique] = {"precision": precision} | columns[technique]
        want = want or found
    taken = {technique: [] for technique in loops}
    for done in range(rounds):
        if done >= LEAST_ROUNDS and time.perf_counter() > until:
            break
        for technique, loop in loops.items():
            taken[technique].append(turn(loop, images, rhythm["steps"], rhythm["lead"]))
    slowest = None
    for technique, rows in taken.items():
        found = summary(rows, every)
        slowest = slowest or found["ms"]
        speed = {"images_per_s": round(1e3 * batch / found["ms"], 2), "times_plain": round(slowest / found["ms"], 3)}
        yield {"preset": name, "batch": batch, "technique": technique, **found, **speed, **columns[technique], "rounds": len(rows)}


def summary(turns, every):
    """{ms, ms_p20, ms_p80, ms_d, ms_d_r1, ms_g} of turns [[(ms of D, ms of G)]]; every: steps of a training between two R1."""
    means = []
    for *others, (d_r1, g_r1) in turns:
        d, g = (statistics.fmean(half) for half in zip(*others, strict=True))
        means.append((((every - 1) * (d + g) + d_r1 + g_r1) / every, d, d_r1, statistics.fmean([g] * len(others) + [g_r1])))
    whole, d, d_r1, g = zip(*means, strict=True)
    found = dict(zip(("ms", "ms_p20", "ms_p80"), spread(whole), strict=True))
    found |= {"ms_d": statistics.median(d), "ms_d_r1": statistics.median(d_r1), "ms_g": statistics.median(g)}
    return {name: round(value, 3) for name, value in found.items()}


def loader_rows(device, cases, rounds, seconds):
    """Rows of train_loader.csv: turns of steps on the loader's batches and on one batch that lies on the device."""
    for name, batch in cases:
        config = override(preset(name), {"batch_size": batch} | ({"precision": "bf16"} if device.type == "cuda" else {}))
        images = torch.randint(256, (SET_SIZE, *config.model.sample_shape), dtype=torch.uint8)
        loader = Loader(InMemory("random", images), batch, device, flip=config.train.flip)
        trainer, batches, count = Trainer(TrainState(config, device), loader.steps_per_epoch), loader.batches(), LOADER_STEPS[device.type]
        images, begin, loaded, still, waits = next(batches), time.perf_counter(), [], [], []
        while trainer.state.step <= 2 * config.train.r1_every and device.type == "cuda":
            trainer.step(images)
        for done in range(rounds):
            if done and time.perf_counter() - begin > seconds / len(cases):
                break
            for source, times in ((batches, loaded), (iter([images] * count), still)):
                total, waited = fed(trainer, source, count)
                times.append(total / count)
                if source is batches:
                    waits.append(100 * waited / total)
        rates = [round(batch / statistics.median(times), 2) for times in (loaded, still)]
        yield {"preset": name, "batch": batch, "precision": config.train.precision} | {
            "images_per_s": rates[0],
            "images_per_s_without": rates[1],
            "data_wait_percent": round(statistics.median(waits), 2),
            "steps": count * len(loaded),
        }


def fed(trainer, batches, count):
    """(seconds of so many steps, those of them in which the host waited for a batch)."""
    trainer.metrics()  # waits for the device
    begin, waited = time.perf_counter(), 0.0
    for _ in range(count):
        asked = time.perf_counter()
        images = next(batches)
        waited += time.perf_counter() - asked
        trainer.step(images)
    trainer.metrics()
    return time.perf_counter() - begin, waited


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    parser.add_argument("--preset", help="with --batch: this case alone")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, help="turns of each loop, at most")
    parser.add_argument("--seconds", type=float, default=600, help="of all, about")
    parser.add_argument("--only", choices=("waterfall", "loader"))
    parser.add_argument("--rival", action="store_true", help="also a plain loop under torch.compile; minutes of compiling")
    args = parser.parse_args()
    kind = args.device.type
    if bool(args.preset) != bool(args.batch):
        parser.error("--preset and --batch belong together")
    rounds, case = args.rounds or ROUNDS[kind], [(args.preset, args.batch)] if args.preset else None
    shares = {"waterfall": 0.9, "loader": 0.1} if args.only is None else {args.only: 1.0}
    seconds = {part: share * args.seconds for part, share in shares.items()}
    if "waterfall" in shares:
        write_rows("train", args.device, waterfall_rows(args.device, case or CASES[kind], rounds, seconds["waterfall"], args.rival))
    if "loader" in shares:
        write_rows("train_loader", args.device, loader_rows(args.device, case or LOADER_CASES[kind], rounds, seconds["loader"]))


if __name__ == "__main__":
    main()
