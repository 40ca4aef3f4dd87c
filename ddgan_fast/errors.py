"""The errors that users meet, each with the exit code that the command line gives it (docs: README, "Exit codes")."""


class DDGANError(Exception):
    """Base of every error raised on purpose. Its text says what failed, where, and what would be right."""

    exit_code = 1


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
