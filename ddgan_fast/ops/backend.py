"""Which implementation of an op runs: the first that does not refuse, or the one that `force` names.

An op keeps a dict {backend name: (refuses, run)} in order of preference, the reference last. `refuses(*arguments)` returns
the reason why this backend cannot serve the call, or None; it reads module constants and tensor metadata alone, so that
torch.compile can trace through it.
"""

from contextlib import contextmanager

from ddgan_fast.errors import MissingError

_forced = None


def pick(op, backends, *arguments):
    """The implementation of `op` for these arguments. Raises MissingError where the forced backend refuses."""
    if _forced is not None:
        if _forced not in backends:
            raise MissingError(f"{op}: no backend {_forced!r}; this op has {', '.join(backends)}")
        refuses, run = backends[_forced]
        if reason := refuses(*arguments):
            raise MissingError(f"{op}: backend {_forced!r} cannot run: {reason}")
        return run
    return next(run for refuses, run in backends.values() if refuses(*arguments) is None)


@contextmanager
def force(name):
    """Inside the block every op runs on the backend `name`, or raises MissingError with the reason; it never falls back."""
    global _forced
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def always(*_):
    """The `refuses` of a backend that serves every call."""
    return None
