"""Places in the user's code: file, line and function of what torch stopped at or a node was made of."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import trtpipe
from trtpipe.exporter.loading import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
_LONGEST = 100  # letters of a line that are quoted
_SITE = Path(torch.__file__).parent.parent
#: The packages that export, ours included.
_EXPORTERS = (_SITE / "torch", _SITE / "onnxscript", _SITE / "onnx_ir", Path(trtpipe.__file__ or ".").parent)


@dataclass(frozen=True)
class Place:
    """A line of Python.

    Attributes:
        file: its name without folders.
        text: the line itself; empty where it cannot be read.
    """

    file: str
    line: int
    function: str
    text: str = ""

    def __str__(self) -> str:
        quoted = f": {self.text}" if self.text else ""
        return f"{self.file}, line {self.line}, in {self.function}{quoted}"


def place_of_error(error: BaseException) -> Place | None:
    """The innermost line outside of torch that an error, or what caused it, passed through."""
    frames = [(f.f_code.co_filename, line, f.f_code.co_name) for f, line in frames_of(error)]
    return _innermost(frames)


def place_of_trace(trace: str) -> Place | None:
    """The innermost line outside of torch in a stack trace that torch wrote as text."""
    return _innermost((found["file"], int(found["line"]), found["function"]) for found in _FRAME.finditer(trace))


def place_of_frame(frame: FrameType | None) -> Place | None:
    """The innermost line outside of torch of the code that runs now."""
    stack = [(f.f_code.co_filename, line, f.f_code.co_name) for f, line in traceback.walk_stack(frame)]
    return _innermost(reversed(stack))


def frames_of(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """Frames and lines that an error passed through, from the outermost to the innermost, causes last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield from traceback.walk_tb(current.__traceback__)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _innermost(frames: Iterable[tuple[str, int, str]]) -> Place | None:
    found = None
    for file, line, function in frames:
        if _is_users(file):
            found = (file, line, function)
    if found is None:
        return None
    file, line, function = found
    text = linecache.getline(file, line).strip()
    return Place(Path(file).name, line, function, text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


@cache
def _is_users(file: str) -> bool:
    """Whether a file is not torch's, the interpreter's or ours; models of other packages count as the user's."""
    if file.startswith("<"):
        return False
    if any(Path(file).is_relative_to(folder) for folder in _EXPORTERS):
        return False
    paths = sysconfig.get_paths()
    installed = any(Path(file).is_relative_to(paths[name]) for name in ("purelib", "platlib"))
    return installed or not any(Path(file).is_relative_to(paths[name]) for name in ("stdlib", "platstdlib"))
