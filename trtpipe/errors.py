"""Every error trtpipe raises on purpose.

::

    Exception
    ├── TrtpipeError            says what is wrong (message) and what to do (remedy)
    │   ├── InputError          an input of the user cannot be used                 exit 2
    │   │   ├── RecipeError     a calibration recipe or deployment profile          exit 2
    │   │   └── UserCodeError   a function of the user ended or hung its process    exit 2
    │   ├── StageError          a stage could not do its work on this model         exit 5
    │   │   ├── BuildError      the graph cannot be built for the target            exit 5
    │   │   └── WorkerError     a child process ended without a reply               exit 5
    │   │       ├── WorkerCrashed   a native library crashed in it                  exit 5
    │   │       ├── OutOfTime       it hung, or exceeded its time limit             exit 5
    │   │       ├── OutOfMemory     it exceeded its memory limit or the machine's   exit 5
    │   │       └── Cancelled       the run that needed it was stopped              exit 5
    │   ├── HostError           lacks a package, device, permission or disk         exit 6
    │   └── StoreCorrupt        a stored artifact does not match its digest         exit 6
    └── InternalError           a bug in trtpipe itself                             exit 1

A failed accuracy or latency gate is a verdict with numbers, never an exception (exit 3 and 4).
"""

from __future__ import annotations

#: Characters that are kept of what an exception says.
_LONGEST = 2000


class TrtpipeError(Exception):
    """Base of all errors a user can act on. Python 3.11 and later show the remedy with the traceback, as a note.

    Args:
        message: one line: what is wrong with which file, node or field.
        remedy: one line: what to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy)  # both, so that copying keeps them
        self.message = message
        self.remedy = remedy
        if remedy:  # what add_note of Python 3.11 would do
            vars(self)["__notes__"] = [f"try: {remedy}"]

    def __str__(self) -> str:
        return self.message


def text_of(error: BaseException) -> str:
    """What an exception says that somebody else's code raised, whatever is wrong with it: a text that cannot be made,
    is no valid Unicode, or is too long to be read.
    """
    try:
        text = str(error)
    except BaseException as second:  # noqa: BLE001 - code of theirs, too
        text = f"(its text cannot be made: {type(second).__name__})"
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return shown.encode("utf-8", "backslashreplace").decode()


class InputError(TrtpipeError):
    """An input of the user cannot be used: a file, an option, a shape, data."""


class RecipeError(InputError):
    """A calibration recipe or a deployment profile has a mistake; the message names file and key."""


class UserCodeError(InputError):
    """A function of the user ended or hung the process that it ran in, or took too much memory."""


class StageError(TrtpipeError):
    """A stage could not do its work on this model, or its result failed the stage's own check."""

    exit_code = 5


class BuildError(StageError):
    """The lowered graph cannot be built for the target; the message names the node where one is known."""


class WorkerError(StageError):
    """A child process ended without a reply.

    Args:
        phase: the last phase of work that it reported.
    """

    def __init__(self, message: str, remedy: str, phase: str = "") -> None:
        super().__init__(message, remedy)
        self.phase = phase


class WorkerCrashed(WorkerError):
    """A native library crashed in the child process."""


class OutOfTime(WorkerError):
    """The child process hung, or took longer than its limit."""


class OutOfMemory(WorkerError):
    """The child process took more memory than its limit, or than the machine has."""


class Cancelled(WorkerError):
    """The run was stopped, or a child process was ended because of that."""


class HostError(TrtpipeError):
    """The machine lacks what was asked for: a package, a GPU, a permission, disk space."""

    exit_code = 6


class StoreCorrupt(TrtpipeError):
    """A stored artifact does not match its recorded digest."""

    exit_code = 6


class InternalError(Exception):
    """A bug in trtpipe. Deliberately not a TrtpipeError: no user input explains it."""

    exit_code = 1
