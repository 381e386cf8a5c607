"""A confined process that tries to get out, one line of JSON: what it tried -> "done", or the class of the error.

Run by ``test_sandbox.py`` with one argument, a JSON object: the folders ``inputs``, ``work``, ``outside``, a ``port``
of this machine, the id of the ``parent``, a file ``shared`` in /dev/shm, and whether to use ``landlock``.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from trtpipe.isolation import sandbox

C = ctypes.CDLL(None, use_errno=True)
C.getenv.restype = ctypes.c_char_p
CANARY = "canary-1234"
READ_WRITE_EXECUTE, PRIVATE_ANONYMOUS_LOW = 7, 0x62


def libc(name: str, *arguments: object) -> None:
    if getattr(C, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def must(found: object) -> None:
    if not found:
        raise PermissionError("nothing there")


def in_a_fork(attempt: Callable[[], object]) -> None:
    """For what may end the process."""
    if (child := os.fork()) == 0:
        with suppress(OSError):
            attempt()
            os._exit(0)
        os._exit(1)
    must(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0)


def i386(call: int, *arguments: int) -> None:
    """A system call as 32-bit programs make it, from machine code below 4 GiB."""
    C.mmap.restype = ctypes.c_void_p
    C.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    page = C.mmap(0, 4096, READ_WRITE_EXECUTE, PRIVATE_ANONYMOUS_LOW, -1, 0)
    loads = zip((b"\xbb", b"\xb9", b"\xba"), arguments, strict=False)  # ebx, ecx, edx
    registers = b"".join(load + struct.pack("<I", value) for load, value in loads)
    code = b"\x53\xb8" + struct.pack("<I", call) + registers + b"\xcd\x80\x5b\xc3"
    ctypes.memmove(page, code, len(code))
    must(ctypes.CFUNCTYPE(ctypes.c_int)(page)() >= 0)


def udp(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ("127.0.0.1", port))


def unix(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def thread() -> None:
    worker = threading.Thread(target=lambda: None)
    worker.start()
    worker.join()


def signal_itself() -> None:
    signal.signal(signal.SIGUSR1, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)


def device() -> None:
    for path in (
        *Path("/dev").glob("vd*"),
        *Path("/dev").glob("sd*"),
        *map(Path, ("/dev/mem", "/dev/kmsg", "/dev/full")),
    ):
        with suppress(OSError), path.open("rb"):
            return
    raise PermissionError("none")


def needed(inputs: Path, work: Path) -> dict[str, Callable[[], Any]]:
    """What it may."""
    return {
        "read its input": (inputs / "in").read_text,
        "write its work": lambda: (work / "made").write_text("x"),
        "rename in its work": lambda: ((work / "a").write_text("x"), (work / "a").replace(work / "b")),
        "make a folder in its work": (work / "sub").mkdir,
        "write to /dev/null": lambda: Path("/dev/null").write_text("x"),
        "random numbers": lambda: Path("/dev/urandom").open("rb").read(1),
        "read the system": lambda: list(Path("/usr").iterdir()),
        "read what it maps": Path("/proc/self/maps").read_text,
        "count cores": Path("/sys/devices/system/cpu/online").read_text,
        "import a library": lambda: __import__("sqlite3"),
        "hash": lambda: __import__("hashlib").sha256(b"x"),
        "start a thread": thread,
        "fork": lambda: in_a_fork(lambda: None),
        "signal itself": signal_itself,
        "memory without a name": lambda: os.close(os.memfd_create("x")),
    }


def files(inputs: Path, work: Path, outside: Path, shared: Path) -> dict[str, Callable[[], Any]]:
    """What Landlock denies."""
    secret = outside / "secret"
    return {
        "read a secret": secret.read_text,
        "list a folder": lambda: list(outside.iterdir()),
        "read through a link": (work / "link").read_text,
        "read through ..": (work / ".." / "outside" / "secret").read_text,
        "write its input": lambda: (inputs / "in").write_text("x"),
        "cut its input short": lambda: os.truncate(inputs / "in", 0),
        "remove its input": (inputs / "in").unlink,
        "write outside": lambda: (outside / "new").write_text("x"),
        "append outside": lambda: secret.open("a"),
        "move out of its work": lambda: (work / "made").replace(outside / "made"),
        "link into its work": lambda: os.link(secret, work / "stolen"),
        "read /etc/shadow": Path("/etc/shadow").read_text,
        "read /etc/passwd": Path("/etc/passwd").read_text,
        "read another's shared memory": shared.read_text,
        "list shared memory": lambda: list(Path("/dev/shm").iterdir()),
        "open a device": device,
        "set core_pattern": lambda: os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)),
        "read its environment file": Path("/proc/self/environ").read_bytes,
        "read its thread's environment file": Path(f"/proc/self/task/{os.getpid()}/environ").read_bytes,
        "read its memory file": lambda: os.close(os.open("/proc/self/mem", os.O_RDWR)),
    }


def network(outside: Path, port: int) -> dict[str, Callable[[], Any]]:
    return {
        "connect": lambda: socket.create_connection(("127.0.0.1", port), timeout=2),
        "listen": lambda: socket.create_server(("127.0.0.1", 0)),
        "send a datagram": lambda: udp(port),
        "resolve a name": lambda: socket.getaddrinfo("example.invalid", 80),
        "a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
        "a socket to the host": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
        "a local socket": lambda: unix(outside / "agent"),
        "a pair of sockets": socket.socketpair,
        "a socket by a 32-bit call": lambda: in_a_fork(lambda: i386(359, 2, 2, 0)),
        "any 32-bit call": lambda: in_a_fork(lambda: i386(20)),
        "a call of x32": lambda: in_a_fork(lambda: libc("syscall", ctypes.c_long(0x40000000 + 39))),
    }


def calls(inputs: Path, work: Path, outside: Path, parent: int) -> dict[str, Callable[[], Any]]:
    """What seccomp, or the lack of privileges, denies whatever the path."""
    secret = outside / "secret"
    return {
        "change a mode": lambda: secret.chmod(0o777),
        "change an open file's mode": lambda: os.fchmod(os.open(inputs / "in", os.O_RDONLY), 0o777),
        "change times": lambda: os.utime(secret, (0, 0)),
        "set an attribute": lambda: os.setxattr(secret, "user.x", b"1"),
        "change an owner": lambda: os.chown(secret, 1000, 1000),
        "make a program that runs as its owner": lambda: os.open(work / "program", os.O_CREAT | os.O_RDWR, 0o4755),
        "open by a call with its arguments in memory": lambda: libc(
            "syscall", 437, -100, bytes(inputs / "in"), struct.pack("3Q", os.O_RDONLY, 0, 0), 24
        ),
        "make a device": lambda: os.mknod(work / "null", 0o020666, os.makedev(1, 3)),
        "make a named pipe": lambda: os.mkfifo(work / "pipe"),
        "mount": lambda: libc("mount", b"none", b"/mnt", b"tmpfs", 0, 0),
        "new mounts": lambda: libc("unshare", 0x20000),
        "a new user": lambda: libc("unshare", 0x10000000),
        "fork with a new user": lambda: in_a_fork(lambda: libc("syscall", 56, 0x10000011, 0, 0, 0, 0)),
        "name the host": lambda: socket.sethostname(socket.gethostname()),
        "shared memory of System V": lambda: libc("shmget", 0, 4096, 0o1600),
        "semaphores of System V": lambda: libc("semget", 0, 1, 0o1600),
        "queues of System V": lambda: libc("msgget", 0, 0o1600),
        "signal the parent": lambda: os.kill(parent, 0),
        "signal its group": lambda: os.kill(0, 0),
        "signal by a file": lambda: fcntl.fcntl(os.open("/dev/null", os.O_RDONLY), fcntl.F_SETOWN, parent),
        "signal by a handle": lambda: os.pidfd_open(parent),
        "trace the parent": lambda: libc("ptrace", 16, parent, 0, 0),
        "write the parent's memory": lambda: libc("process_vm_writev", parent, 0, 0, 0, 0, 0),
        "limit the parent": lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE),
        "keys": lambda: libc("syscall", 250, 1, 0, 0, 0),
        "io_uring": lambda: libc("syscall", 425, 1, bytes(120)),
        "bpf": lambda: libc("syscall", 321, 0, bytes(128), 128),
        "type into the terminal": lambda: fcntl.ioctl(0, 0x5412, b"x"),
        "run a program": lambda: subprocess.run(["true"], check=True),
        "leave its session": lambda: in_a_fork(os.setsid),
        "be another user": lambda: os.setuid(1000),
        "mount as root": lambda: libc("chroot", b"/"),
        "its environment": lambda: os.environ["SECRET_TOKEN"],
        "its environment in C": lambda: must(C.getenv(b"SECRET_TOKEN")),
        "capabilities": lambda: must(
            any(
                int(line.split()[1], 16)
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("Cap")
            )
        ),
        "parent's environment": Path(f"/proc/{parent}/environ").read_bytes,
        "parent's memory": Path(f"/proc/{parent}/maps").read_text,
    }


def main() -> None:
    told = json.loads(sys.argv[1])
    inputs, work, outside, shared = (Path(told[name]) for name in ("inputs", "work", "outside", "shared"))
    if not told["landlock"]:
        setattr(sandbox, "landlock_version", lambda: 0)  # noqa: B010  a kernel without it
    sandbox.confine([str(inputs)], [str(work)])
    results: dict[str, dict[str, str]] = {}
    for kind, tries in (
        ("needed", needed(inputs, work)),
        ("network", network(outside, told["port"])),
        ("calls", calls(inputs, work, outside, told["parent"])),
        ("files", files(inputs, work, outside, shared)),
    ):
        for name, attempt in tries.items():
            try:
                attempt()
                results.setdefault(kind, {})[name] = "done"
            except (OSError, KeyError, subprocess.CalledProcessError) as error:
                results.setdefault(kind, {})[name] = type(error).__name__
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
