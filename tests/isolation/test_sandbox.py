"""A child that tries to get out (``sandbox_escapes.py``), in processes of its own: what is confined stays confined."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import sandbox_escapes

from trtpipe.backends.null import NullRequest
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import InputError
from trtpipe.isolation import sandbox, system_calls
from trtpipe.isolation.sandbox import landlock_version, protections
from trtpipe.isolation.seccomp import has_seccomp, program
from trtpipe.isolation.worker import Limits, call
from trtpipe.progress import NullProgress

needs_landlock = pytest.mark.skipif(landlock_version() < 3, reason="needs Landlock")
needs_seccomp = pytest.mark.skipif(not has_seccomp(), reason="needs seccomp")
SCRIPT = Path(sandbox_escapes.__file__)
#: kind -> what was tried -> how it ended
Tried: TypeAlias = dict[str, dict[str, str]]


def try_all(folder: Path, *, landlock: bool) -> Tried:
    for name in ("inputs", "work", "outside"):
        (folder / name).mkdir()
    (folder / "inputs" / "in").write_text("in")
    (folder / "outside" / "secret").write_text("secret")
    (folder / "work" / "link").symlink_to(folder / "outside" / "secret")
    before = (folder / "outside" / "secret").stat()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as agent,
        tempfile.NamedTemporaryFile(dir="/dev/shm") as shared,
    ):
        agent.bind(str(folder / "outside" / "agent"))
        agent.listen(1)
        places = {name: str(folder / name) for name in ("inputs", "work", "outside")}
        told = {**places, "port": server.getsockname()[1], "parent": os.getpid(), "shared": shared.name}
        answer = subprocess.run(
            [sys.executable, SCRIPT, json.dumps({**told, "landlock": landlock})],
            env={**os.environ, "SECRET_TOKEN": sandbox_escapes.CANARY},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    assert answer.returncode == 0, answer.stderr
    after = (folder / "outside" / "secret").stat()
    if landlock:
        assert (folder / "outside" / "secret").read_text() == "secret"
        assert {path.name for path in (folder / "outside").iterdir()} == {"secret", "agent"}
        assert (before.st_mode, before.st_uid, before.st_mtime) == (after.st_mode, after.st_uid, after.st_mtime)
    return json.loads(answer.stdout)


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    return try_all(tmp_path_factory.mktemp("sandbox"), landlock=True)


def done(tried: Tried, kind: str) -> list[str]:
    return [name for name, how in tried[kind].items() if how == "done"]


@needs_landlock
def test_what_it_needs_it_may(tried: Tried) -> None:
    assert tried["needed"] == dict.fromkeys(tried["needed"], "done")


@needs_landlock
def test_it_gets_at_no_other_files(tried: Tried) -> None:
    assert len(tried["files"]) >= 20
    assert done(tried, "files") == []


@needs_seccomp
def test_it_has_no_network(tried: Tried) -> None:
    assert len(tried["network"]) >= 11
    assert done(tried, "network") == []


@needs_landlock
@needs_seccomp
def test_it_makes_no_other_calls(tried: Tried) -> None:
    assert len(tried["calls"]) >= 37
    assert done(tried, "calls") == []


@needs_seccomp
def test_a_kernel_without_landlock_still_filters_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Files are open then: that is what ``protections`` has to say."""
    tried = try_all(tmp_path, landlock=False)
    assert done(tried, "network") == []
    assert set(done(tried, "calls")) <= {"parent's environment", "parent's memory"}  # files, like others of the user's
    assert "read a secret" in done(tried, "files")
    monkeypatch.setattr(sandbox, "landlock_version", lambda: 0)
    assert protections() == ("network", "system calls", "environment", "privileges")


@needs_landlock
@needs_seccomp
def test_what_is_active_is_said() -> None:
    assert protections() == ("files", "network", "system calls", "environment", "privileges")


def verdict(machine: str, architecture: int, number: int, *arguments: int) -> int:
    """What the filter for process 77 of a machine gives for a call: an interpreter of the few operations it uses."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    lines, position, loaded = program(machine, 77), 0, 0
    while True:
        operation, if_true, if_false, operand = lines[position]
        if operation == 0x06:
            return operand
        if operation == 0x20:
            (loaded,) = struct.unpack_from("<I", data, operand)
            position += 1
        else:
            holds = {0x15: loaded == operand, 0x35: loaded >= operand, 0x45: bool(loaded & operand)}[operation]
            position += 1 + (if_true if holds else if_false)


ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x50026


def machines() -> Iterator[tuple[str, int, int]]:
    yield from ((machine, architecture, column) for machine, (architecture, column) in system_calls.MACHINES.items())


@pytest.mark.parametrize(("machine", "architecture", "column"), list(machines()))
def test_the_filter_allows_what_is_listed_and_nothing_else(machine: str, architecture: int, column: int) -> None:
    listed = {numbers[column] for numbers in system_calls.ALLOWED.values()} - {None}
    by_argument = ("IOCTL", "FCNTL", "PRCTL", "CLONE", "KILL", "TGKILL", "PRLIMIT", "OPEN", "OPENAT", "CREAT")
    depends = {getattr(system_calls, name)[column] for name in by_argument} - {None}
    assert not listed & depends
    for number in range(600):
        expected = ALLOW if number in listed else EPERM if number <= 424 else ENOSYS
        if number not in depends:
            assert verdict(machine, architecture, number) == expected, number
    assert verdict(machine, architecture ^ 1, 0) == KILL
    assert verdict(machine, architecture, 0x40000000 + 39) == KILL


@pytest.mark.parametrize(("machine", "architecture", "column"), list(machines()))
def test_some_calls_depend_on_an_argument(machine: str, architecture: int, column: int) -> None:
    def of(name: str, *arguments: int) -> int:
        return verdict(machine, architecture, getattr(system_calls, name)[column], *arguments)

    assert (of("KILL", 77, 9), of("TGKILL", 77, 77, 6)) == (ALLOW, ALLOW)
    assert {of("KILL", 78, 0), of("KILL", 0, 0), of("KILL", 2**64 - 1, 9), of("TGKILL", 78, 78, 9)} == {EPERM}
    assert (of("IOCTL", 1, 0x5401), of("IOCTL", 1, 0x5412), of("IOCTL", 1, 0x40086602)) == (ALLOW, EPERM, EPERM)
    assert (of("CLONE", 0x3D0F00), of("CLONE", 17), of("CLONE", 0x10000011)) == (ALLOW, ALLOW, EPERM)
    assert (of("PRLIMIT", 0), of("PRLIMIT", 77), of("PRLIMIT", 1)) == (ALLOW, ALLOW, EPERM)
    assert (of("FCNTL", 3, 3), of("FCNTL", 3, 8), of("FCNTL", 3, 10)) == (ALLOW, EPERM, EPERM)
    assert (of("PRCTL", 15), of("PRCTL", 22)) == (ALLOW, EPERM)
    create, temporary = os.O_CREAT | os.O_RDWR, os.O_TMPFILE | os.O_RDWR
    assert {of("OPENAT", 3, 0, flags, 0o666) for flags in (os.O_RDONLY, create, temporary)} == {ALLOW}
    assert {of("OPENAT", 3, 0, flags, mode) for flags in (create, temporary) for mode in (0o4755, 0o2755)} == {EPERM}
    assert of("OPENAT", 3, 0, os.O_RDONLY, 0o7777) == ALLOW  # no file is made: what is there is no mode
    if column == 0:
        assert (of("OPEN", 0, create, 0o644), of("OPEN", 0, create, 0o4755)) == (ALLOW, EPERM)
        assert (of("CREAT", 0, 0o644), of("CREAT", 0, 0o2755)) == (ALLOW, EPERM)


@needs_landlock
def test_a_task_that_reads_more_than_it_was_given_is_refused(conv_net: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    request = NullRequest(model=str(conv_net), plan=str(work / "p"), target="sm89")

    def build(reads: tuple[Path, ...] | None, *, confined: bool = True) -> EngineRecord:
        limits = Limits(seconds=60.0, memory=4 << 30, confined=confined)
        return call("trtpipe.backends.null:build_task", request, EngineRecord, limits=limits, progress=NullProgress(),
                    what="building", workdir=work, reads=reads)  # fmt: skip

    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        build(())
    for facts in (build((conv_net,)), build(None), build((), confined=False)):
        assert facts.target == "sm89"
