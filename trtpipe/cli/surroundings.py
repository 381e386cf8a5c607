"""What a process finds when it starts: its standard streams, and how much memory it may map."""

from __future__ import annotations

import os
import resource
import sys

from trtpipe.errors import HostError

#: numpy alone maps more than this, and ends the process where it cannot.
_LEAST_ADDRESS_SPACE = 512 << 20


def open_standard_streams() -> None:
    """Open those that are closed, to nowhere: the next file would get their number, and what is printed with it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            _open_nowhere(number)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))


def _open_nowhere(number: int) -> None:
    try:
        opened = os.open(os.devnull, os.O_RDWR)
    except OSError:  # no devices here: a pipe without a reader, or without a writer
        ends = os.pipe()
        opened = ends[1] if number else ends[0]
        os.close(ends[0] if number else ends[1])
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)


def check_address_space() -> None:
    """Refuse to begin where libraries cannot even be loaded.

    Raises:
        HostError: ``ulimit -v`` is too low.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < _LEAST_ADDRESS_SPACE:
        raise HostError(
            f"the address space is limited to {limit >> 20} MiB (ulimit -v), too little to load the libraries",
            "raise that limit: ulimit -v unlimited",
        )
