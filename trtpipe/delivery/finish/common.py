"""What all parts of finish.py need: its error, and its types."""

from __future__ import annotations

import sys
from typing import Any, Dict

import numpy as np

#: input or output name -> array
Feed = Dict[str, np.ndarray]
Array = np.ndarray
#: plain JSON values
Record = Dict[str, Any]


class Failed(Exception):
    """What ends the run: exit code, what is wrong, what to do."""

    def __init__(self, code: int, message: str, remedy: str) -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy


class InputError(Failed):
    """Outputs that cannot be compared: what trtpipe's own modules among the parts raise."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(3, message, remedy)


def say(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(text + "\n")


def reasons(log: Any) -> str:
    """TensorRT's last errors, in one line."""
    return " | ".join(log.errors[-3:]) or "it does not say why"
