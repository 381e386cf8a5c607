"""The Linux kernel's facilities for processes and memory. Where they are missing, functions do nothing."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.config.os_errors import address_space_limit

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 47, 4
_CAPABILITIES_VERSION = 0x20080522
#: Positions in ``/proc/<pid>/stat``, counted behind the command's closing parenthesis.
_GROUP, _RESIDENT_PAGES = 2, 21
_ENVIRONMENT = slice(47, 49)
_STAT_BYTES = 1 << 12
#: Seconds between two checks of a child.
POLL_SECONDS = 0.03
#: Share of the parent's time that measuring a process group's memory may take.
_WATCH_SHARE = 0.01
#: Bytes of a model from which on its memory is given back at once.
_LARGE = 64 << 20

#: Libraries map at least so much at a time: an arena of the C library, a thread's stack.
_LAST_MAPPINGS = 64 << 20
_STATUS = Path("/proc/self/status")
#: Stacks of threads that run native libraries, from what they may need to the least that helps.
_STACKS = (512 << 20, 128 << 20, 32 << 20)


def address_space_is_full() -> bool:
    """Whether this process has come so close to what it may map (``ulimit -v``) that mapping may have failed."""
    limit = address_space_limit()
    if limit is None:
        return False
    with suppress(OSError):
        lines = (line.split() for line in _STATUS.read_text().splitlines())
        peak = next((int(words[1]) << 10 for words in lines if words[0] == "VmPeak:"), 0)
        return limit - peak < _LAST_MAPPINGS
    return False


def run_with_stack(work: Callable[[], object]) -> None:
    """Run ``work`` in a thread with a large stack, or with the largest that the address space has room for.

    TensorRT walks graphs recursively: a chain of a few thousand layers overflows the usual 8 MiB.

    Raises:
        MemoryError: there is room for none.
    """
    for size in _STACKS:
        threading.stack_size(size)
        thread = threading.Thread(target=work, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            continue
        thread.join()
        return
    raise MemoryError("no room for a thread")


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


def release_memory(size: int) -> None:
    """Give memory back that a large model took which is no longer used.

    Its nodes and graphs refer to each other, so that they would wait for a garbage collection, and few are due while
    weights are large and objects few; and what was freed stays with the process where the C library keeps it.

    Args:
        size: Of the model in bytes. Nothing is done for a small one: a collection looks at all objects of the process,
            and in one that is not ours alone they may be millions.
    """
    if size < _LARGE:
        return
    gc.collect()
    return_freed_memory()


def return_freed_memory() -> None:
    """Give back to the system what was freed, and stayed with the process because the C library keeps it."""
    with suppress(OSError, AttributeError):  # another C library than GNU's
        ctypes.CDLL(None).malloc_trim(0)


def process_memory(process: int) -> int:
    """Resident memory of one process in bytes; 0 where it has ended, or there is no ``/proc``."""
    try:
        with open(f"/proc/{process}/statm", "rb", 0) as file:  # noqa: PTH123 - asked very often
            return int(file.read(_STAT_BYTES).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


class MemoryWatch:
    """Watches the memory of a process group: its leader at every check, all processes less often, to save time.

    Args:
        group: the process group.
        limit: bytes it may have resident.
    """

    def __init__(self, group: int, limit: int) -> None:
        self._group = group
        self._limit = limit
        self._next = 0.0

    def exceeded(self) -> bool:
        """Whether the leader is over the limit, or the group was when it was last due for a check."""
        if process_memory(self._group) > self._limit:
            return True
        now = time.monotonic()
        if now < self._next:
            return False
        found = group_memory(self._group) or 0
        self._next = now + max(POLL_SECONDS, (time.monotonic() - now) / _WATCH_SHARE)
        return found > self._limit


def machine_memory() -> int:
    """Memory available to this process, in bytes: the machine's, or its control group's limit if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # no limit reads "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return total


def free_memory() -> int:
    """Free memory in bytes; ``machine_memory`` where the kernel does not report it."""
    total = free = machine_memory()
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, ValueError, StopIteration):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")))
    return max(0, min(free, total))


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when ``parent`` ends, for whatever reason."""
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def checked(result: int) -> int:
    """The result of a function of the C library that gives a negative number where it fails.

    Raises:
        OSError: it did.
    """
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up every capability, so that root is a user like others who owns root's files, for good.

    Raises:
        OSError: the kernel refuses.
    """
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    capability = 0
    while libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:  # fails behind the last one, or where it holds none
        capability += 1
    header = struct.pack("=Ii", _CAPABILITIES_VERSION, 0)
    checked(libc.capset(header, bytes(24)))


def forget_environment() -> None:
    """Overwrite what the kernel shows of this process's environment: the strings that it was started with.

    To be called after what is still needed was set anew, which the C library keeps elsewhere.
    """
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = (int(field) for field in fields[_ENVIRONMENT])
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)


def prefer_as_oom_victim() -> None:
    """Have the kernel kill this process first when memory runs out, and write no core file."""
    import resource

    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
