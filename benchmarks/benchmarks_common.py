"""Shared by the benchmarks: the machine in one line, and the memory of a process tree."""

from __future__ import annotations

import os
from pathlib import Path

from trtpipe.toolchain import machine


def machine_line() -> str:
    """CPU, cores and memory."""
    found = machine()
    return f"{found['cpu']}, {found['cores']} cores, {int(found['memory']) / 2**30:.0f} GiB, no GPU used, {found['os']}"


def tree_memory(pid: int) -> int:
    """Private resident bytes of a process and all its descendants; file-backed pages are not counted."""
    total = 0
    for process in _tree(pid):
        try:
            fields = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()
        except OSError:  # it has just ended
            continue
        total += (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    return total


def _tree(pid: int) -> list[int]:
    found = [pid]
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text(encoding="ascii").split():
                found += _tree(int(child))
    except OSError:  # it has just ended
        pass
    return found
