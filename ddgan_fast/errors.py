"""The errors that users meet, each with the exit code that the command line gives it (docs: README, "Exit codes")."""

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class DDGANError(Exception):
    """Base of every error raised on purpose. Its text says what failed, where, and what would be right.

    Control characters, which the names in a data set may bring, are shown as their numbers: a terminal would obey them.
    """

    exit_code = 1

    def __str__(self):
        return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", super().__str__())


class InputError(DDGANError, ValueError):
    """A flag, argument or config value that cannot be used."""

    exit_code = 2


class DataError(DDGANError):
    """Training data that is missing, broken or of another kind than it should be."""

    exit_code = 3


class CheckpointError(DDGANError):
    """A checkpoint, model folder or released weight file that is broken or does not fit."""

    exit_code = 4


class MissingError(DDGANError):
    """A package, backend or engine that was asked for and is not there."""

    exit_code = 5


class ResourceError(DDGANError):
    """Memory or disk ran out."""

    exit_code = 6


class NonFiniteError(DDGANError):
    """Training met a NaN or an infinity."""

    exit_code = 7


class StoppedError(DDGANError):
    """A signal ended the work after everything was saved; the exit code is 128 + its number."""

    def __init__(self, message, signal_number):
        super().__init__(message)
        self.exit_code = 128 + signal_number
