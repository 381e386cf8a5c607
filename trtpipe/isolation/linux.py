"""What the kernel can tell and do about processes. Each function does nothing, or says ``None``, where it cannot."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
#: Positions in ``/proc/<pid>/stat``, counted behind the command's closing parenthesis.
_GROUP, _RESIDENT_PAGES = 2, 21
_STAT_BYTES = 1 << 12
#: How often a child is looked after.
POLL_SECONDS = 0.03
#: Looking at the memory of a whole group may take this share of the parent's time.
_LOOKING = 0.01


def group_memory(group: int) -> int | None:
    """Resident memory of all processes in a process group, in bytes; ``None`` where there is no ``/proc``.

    Pages that processes of the group share count once for each of them.
    """
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - there may be thousands, and Path objects cost as much as the rest
    except OSError:
        return None
    pages = 0
    for name in names:
        if name.isdigit():
            with suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb", 0) as file:  # noqa: PTH123
                fields = file.read(_STAT_BYTES).rpartition(b")")[2].split()  # fails where the process has just ended
                if int(fields[_GROUP]) == group:
                    pages += int(fields[_RESIDENT_PAGES])
    return pages * os.sysconf("SC_PAGE_SIZE")


def process_memory(process: int) -> int:
    """Resident memory of one process in bytes; 0 where it has ended, or there is no ``/proc``."""
    try:
        with open(f"/proc/{process}/statm", "rb", 0) as file:  # noqa: PTH123 - asked very often
            return int(file.read(_STAT_BYTES).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


class MemoryWatch:
    """Looks at the memory of a process group: of its leader always, of all seldom enough to take little of the time.

    Args:
        group: the process group.
        limit: bytes it may have resident.
    """

    def __init__(self, group: int, limit: int) -> None:
        self._group = group
        self._limit = limit
        self._next = 0.0

    def exceeded(self) -> bool:
        """Whether the leader is over the limit, or the group was when it was time to look."""
        if process_memory(self._group) > self._limit:
            return True
        now = time.monotonic()
        if now < self._next:
            return False
        found = group_memory(self._group) or 0
        self._next = now + max(POLL_SECONDS, (time.monotonic() - now) / _LOOKING)
        return found > self._limit


def machine_memory() -> int:
    """Memory this process may hope for, in bytes: the machine's, or its control group's limit where that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # no limit reads "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return total


def free_memory() -> int:
    """Memory that nobody needs at the moment, in bytes; what ``machine_memory`` says where the kernel does not tell."""
    total = free = machine_memory()
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, ValueError, StopIteration):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")))
    return max(0, min(free, total))


def die_with(parent: int) -> None:
    """Have the kernel kill this process when ``parent`` ends, however it ends."""
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before we could ask
        os._exit(1)


def be_the_first_to_go() -> None:
    """When memory runs out, this process shall be killed rather than any other; and it leaves no core file."""
    import resource

    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
