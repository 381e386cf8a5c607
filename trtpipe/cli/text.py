"""Writing text to standard output and error: safe for terminals, and for closed pipes."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import TextIO

from trtpipe.errors import HostError


def emit(text: str) -> None:
    """Write the result to standard output.

    A reader that has gone away (``| head``) is no failure of ours: the rest is dropped and the exit code stands.

    Raises:
        HostError: it cannot be written for another reason, such as a full disk.
    """
    try:
        _write(sys.stdout, text)
    except OSError as error:
        raise HostError(
            f"cannot write to standard output: {error.strerror}", "free some space, or send the output elsewhere"
        ) from error


def complain(text: str) -> None:
    """Write to standard error; where that is impossible there is no channel left."""
    with suppress(OSError):
        _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(_encodable(stream, text) + "\n")
        stream.flush()
    except OSError as error:
        _silence(stream)
        if error.errno != errno.EPIPE:
            raise


def _encodable(stream: TextIO, text: str) -> str:
    """``text`` without what the stream's encoding lacks."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _silence(stream: TextIO) -> None:
    """Send what is still buffered, and all that follows, to nowhere: Python flushes once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)
