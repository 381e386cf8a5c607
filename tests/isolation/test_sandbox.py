"""A child that tries to get out, in processes of its own: what is confined stays confined."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trtpipe.backends.null import NullRequest
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import InputError
from trtpipe.isolation.sandbox import has_seccomp, landlock_version
from trtpipe.isolation.worker import Limits, call
from trtpipe.progress import NullProgress

needs_landlock = pytest.mark.skipif(landlock_version() < 3, reason="needs Landlock")
needs_seccomp = pytest.mark.skipif(not has_seccomp(), reason="needs seccomp")

SCRIPT = """
import json, os, shutil, socket, subprocess, sys
from pathlib import Path
from trtpipe.isolation.sandbox import confine

inputs, work, outside, port, parent = (json.loads(sys.argv[1])[name] for name in
                                       ("inputs", "work", "outside", "port", "parent"))
confine([inputs], [work])

def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("127.0.0.1", port))

TRIES = {
    "read its input": lambda: Path(inputs, "in").read_text(),
    "write its work": lambda: Path(work, "made").write_text("x"),
    "rename in its work": lambda: (Path(work, "a").write_text("x"), Path(work, "a").replace(Path(work, "b"))),
    "make a folder in its work": lambda: Path(work, "sub").mkdir(),
    "write to /dev/null": lambda: Path("/dev/null").write_text("x"),
    "read the system": lambda: Path("/etc/hostname").exists() and os.listdir("/usr"),
    "import a library": lambda: __import__("sqlite3"),
    "read a secret": lambda: Path(outside, "secret").read_text(),
    "list a folder": lambda: os.listdir(outside),
    "read through a link": lambda: Path(work, "link").read_text(),
    "read through ..": lambda: Path(work, "..", "outside", "secret").read_text(),
    "write its input": lambda: Path(inputs, "in").write_text("x"),
    "cut its input short": lambda: os.truncate(Path(inputs, "in"), 0),
    "remove its input": lambda: Path(inputs, "in").unlink(),
    "write outside": lambda: Path(outside, "new").write_text("x"),
    "append outside": lambda: Path(outside, "secret").open("a"),
    "move out of its work": lambda: Path(work, "made").replace(Path(outside, "made")),
    "link into its work": lambda: os.link(Path(outside, "secret"), Path(work, "stolen")),
    "read the parent's environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
    "read the parent's memory": lambda: Path(f"/proc/{parent}/maps").read_text(),
    "signal the parent": lambda: os.kill(parent, 0),
    "read by a program": lambda: subprocess.run(["cat", str(Path(outside, "secret"))], check=True, capture_output=True),
    "connect": lambda: socket.create_connection(("127.0.0.1", port), timeout=2),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)),
    "send a datagram": udp,
    "resolve a name": lambda: socket.getaddrinfo("example.invalid", 80),
}
found = {}
for name, attempt in TRIES.items():
    try:
        attempt()
        found[name] = "done"
    except (OSError, subprocess.CalledProcessError) as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""
ALLOWED = {
    "read its input", "write its work", "rename in its work", "make a folder in its work", "write to /dev/null",
    "read the system", "import a library",
}  # fmt: skip
NETWORK = {"connect", "listen", "send a datagram", "resolve a name"}


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("sandbox")
    for name in ("inputs", "work", "outside"):
        (folder / name).mkdir()
    (folder / "inputs" / "in").write_text("in")
    (folder / "outside" / "secret").write_text("secret")
    (folder / "work" / "link").symlink_to(folder / "outside" / "secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        places = {name: str(folder / name) for name in ("inputs", "work", "outside")}
        told = json.dumps({**places, "port": server.getsockname()[1], "parent": os.getpid()})
        answer = subprocess.run([sys.executable, "-c", SCRIPT, told], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert (folder / "outside" / "secret").read_text() == "secret"
    assert [path.name for path in (folder / "outside").iterdir()] == ["secret"]
    return json.loads(answer.stdout)


@needs_landlock
def test_what_it_needs_it_may(tried: dict[str, str]) -> None:
    assert {name: tried[name] for name in ALLOWED} == dict.fromkeys(ALLOWED, "done")


@needs_landlock
def test_it_gets_at_no_other_files_or_processes(tried: dict[str, str]) -> None:
    escapes = {name: how for name, how in tried.items() if name not in ALLOWED | NETWORK}
    if landlock_version() < 6:
        escapes.pop("signal the parent")
    assert len(escapes) >= 14
    assert {name: how for name, how in escapes.items() if how == "done"} == {}


@needs_seccomp
def test_it_has_no_network(tried: dict[str, str]) -> None:
    assert {name: tried[name] for name in NETWORK if tried[name] == "done"} == {}


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
