"""Whether Ctrl-C was pressed, remembered apart from the exception that it raises.

Python raises KeyboardInterrupt wherever the main thread happens to be. Where that is a class under construction, an
extension module being imported or a generator in another thread's hands, another exception comes out of it.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@dataclass
class Interrupts:
    """What came while they were watched.

    Attributes:
        pressed: whether Ctrl-C was.
    """

    pressed: bool = False


@contextmanager
def watched_interrupts() -> Iterator[Interrupts]:
    """While entered, Ctrl-C is noted before whoever handled it so far does. A process that ignores it goes on to."""
    seen = Interrupts()
    usual = signal.getsignal(signal.SIGINT)
    if not callable(usual) or threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def note(number: int, frame: FrameType | None) -> None:
        seen.pressed = True
        usual(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, usual)
