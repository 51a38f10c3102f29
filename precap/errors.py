"""The errors precap raises on purpose: each message says what, where, and what to do next.

The command line prints the message without a traceback and leaves with the class's exit code:
0 done, 1 unexpected error, 2 usage or configuration, 3 done but some images have no features,
4 damaged or mismatched data, 5 locked by another writer, 6 system resource missing or exhausted,
75 asked to stop by a signal with work left (a batch system may requeue), 130 interrupted, 141
stdout or stderr was a pipe that nobody reads any more.
"""

DONE_WITH_LOSSES = 3


class PrecapError(Exception):
    """Any failure precap foresaw. ``exit_code`` is what the command line leaves with."""

    exit_code = 1


class ConfigError(PrecapError, ValueError):
    """A wrong option, an unknown name, a missing file the user named."""

    exit_code = 2


class DataError(PrecapError, ValueError):
    """A dataset, annotation or prediction file that cannot be used as it is."""

    exit_code = 4


class StoreError(PrecapError):
    """A feature store that is damaged, incomplete, or made by another configuration."""

    exit_code = 4


class LockedError(StoreError):
    """Another live process holds what this one needs; the message names host, pid and time."""

    exit_code = 5


class ResourceError(PrecapError, OSError):
    """The machine ran out of something: disk, quota, file handles, memory; or lacks a program."""

    exit_code = 6


class ImageError(PrecapError):
    """One image gives no features. ``reason`` is the short stable word that the ledger counts."""

    def __init__(self, reason: str, detail: str = "", *, skipped: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.skipped = reason, detail, skipped


class Interrupted(PrecapError):
    """A signal asked to stop; everything committed so far is safe. Rerun the command to go on."""

    exit_code = 75
