"""What the kernel can tell and do about processes. Each function does nothing, or says ``None``, where it cannot."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
#: Positions in ``/proc/<pid>/stat``, counted behind the command's closing parenthesis.
_GROUP, _RESIDENT_PAGES = 2, 21


def group_memory(group: int) -> int | None:
    """Resident memory of all processes in a process group, in bytes; ``None`` where there is no ``/proc``.

    Pages that processes of the group share count once for each of them.
    """
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - called every few milliseconds, and Path objects cost as much as the rest
    except OSError:
        return None
    pages = 0
    for name in names:
        if name.isdigit():
            with suppress(OSError, ValueError, IndexError):  # the process has just ended
                fields = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[_GROUP]) == group:
                    pages += int(fields[_RESIDENT_PAGES])
    return pages * os.sysconf("SC_PAGE_SIZE")


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
