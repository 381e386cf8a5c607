"""Shared by the benchmarks: the machine in one line, and the memory and the CPU time of a process tree."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from trtpipe.config.toolchain import machine


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


def tree_pss(pid: int) -> int:
    """Resident bytes of a process and all its descendants, each page once: shared ones in equal parts."""
    total = 0
    for process in _tree(pid):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


class PeakMemory:
    """``with PeakMemory() as peak``: the most that ``tree_pss`` said meanwhile; it is asked every 20 ms."""

    def __enter__(self) -> PeakMemory:
        self.begin = self.most = tree_pss(os.getpid())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, tree_pss(os.getpid()))

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def tree_cpu(pid: int | None = None) -> float:
    """CPU seconds of a process (this one), and of its descendants that are alive or that a descendant waited for."""
    ticks = 0
    for process in _tree(os.getpid() if pid is None else pid):
        try:
            fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _tree(pid: int) -> list[int]:
    found = [pid]
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text(encoding="ascii").split():
                found += _tree(int(child))
    except OSError:  # it has just ended
        pass
    return found
