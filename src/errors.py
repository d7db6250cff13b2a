"""The errors that eigenzoo raises on purpose, each with the exit code of the process that it ends.

| code | meaning |
|---|---|
| 0 | finished |
| 1 | a fault in code (with its traceback), or at least one failed job of a sweep |
| 2 | a fault in a config, in data or in other input (one sentence each, no traceback) |
| 3 | the loss or an input became non-finite |
| 4 | the run folder cannot be used: busy, read-only, full, damaged |
| 143 | stopped by a signal after a checkpoint; the same command continues |
"""


class EigenzooError(Exception):
    """A failure with a clear sentence for the user; `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(EigenzooError):
    """One or more faults in a config: `faults` holds a sentence for each, all found in one pass."""

    exit_code = 2

    def __init__(self, *faults: str):
        self.faults = faults
        super().__init__("\n".join(faults))


class DataError(EigenzooError):
    """Data that are missing, altered or invalid; names the set, the place looked in and what to do."""

    exit_code = 2


class SolverError(DataError):
    """A numerical solver that failed: `sample` is the index, among those given to it, of the one that failed."""

    def __init__(self, sample: int, sentence: str):
        self.sample, self.sentence = sample, sentence
        super().__init__(f"sample {sample}: {sentence}")


class NonFiniteError(EigenzooError):
    """A loss or an input is NaN or infinite; names the step, the term and the module."""

    exit_code = 3


class StorageError(EigenzooError):
    """A run folder or checkpoint that cannot be written, is in use or is damaged beyond recovery."""

    exit_code = 4


class Interrupted(EigenzooError):
    """Stopped by a signal after the state was saved."""

    exit_code = 143
