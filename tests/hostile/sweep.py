"""Run as a script: hostile inputs, each as a whole command in a process of its own; prints one JSON document.

    python tests/hostile/sweep.py FOLDER [every] [which]

``every`` takes each n-th case (default 1: all); ``which`` a kind. A child is forked for every command, with its own
cache, output folder and home; what it opens for writing and every socket is watched by an audit hook, canaries and
traps lie outside, and where ``strace`` is installed the whole sweep can be run under it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True  # what Python writes of its own is not what a command writes
TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from hostile.corpus import Case, corpus  # noqa: E402  the path comes first
from hostile.models import CANARY  # noqa: E402

import trtpipe.api.stages  # noqa: E402
import trtpipe.cli  # noqa: E402
from trtpipe.data import dataset  # noqa: E402, F401

TRAP = Path("/tmp/trtpipe-escaped")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SECONDS = 90


def command_of(case: Case, here: Path) -> list[str]:
    words = list(case.words)
    if "--cache-dir" not in words:
        words = ["--cache-dir", str(here / "cache"), *words]
    takes_out = not {"inspect", "verify", "measure"} & set(words)
    return words if "-o" in words or not takes_out else [*words, "-o", str(here / "out")]


def watch(allowed: tuple[str, ...], log: Path) -> None:
    """Write down every file opened for writing outside ``allowed``, every socket, program and unpickled name."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str) and isinstance(args[2], int):
            path = os.path.abspath(args[0])  # noqa: PTH100  must not resolve links here
            if args[2] & WRITES and not path.startswith((*allowed, "/dev/null", "/dev/shm")):
                os.write(handle, f"wrote {path}\n".encode())
        elif event in {"pickle.find_class", "os.system", "socket.connect", "socket.bind", "os.exec"}:
            os.write(handle, f"{event} {args!r}\n".encode(errors="replace"))

    sys.addaudithook(hook)


def run(case: Case, number: int, folder: Path) -> dict[str, Any]:
    here = folder / "runs" / str(number)
    (here / "home").mkdir(parents=True)
    errors, log = here / "stderr", here / "log"
    log.touch()
    started = time.monotonic()
    pid = os.fork()
    if not pid:
        handle = os.open(errors, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ.update(HOME=str(here / "home"), TMPDIR=str(here), SECRET_TOKEN=CANARY.decode())
        os.chdir(here)
        watch((str(here), str(folder / "input" / "places")), log)
        sys.argv = ["trtpipe", *command_of(case, here)]
        status = 1
        try:
            trtpipe.cli.main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        finally:
            os.write(handle, b"\n%d kB" % resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            os._exit(status)
    status = ended(pid, started)
    *text, memory = errors.read_text(errors="replace").splitlines() or [""]
    leaked = [str(path) for path in here.rglob("*") if path.is_file() and path.name != "stderr" and holds_canary(path)]
    return {
        "kind": case.kind,
        "name": case.name,
        "code": status,
        "fine": status in case.codes,
        "seconds": round(time.monotonic() - started, 2),
        "megabytes": int(memory.split()[0]) // 1000 if memory.endswith(" kB") else -1,
        "said": next((line for line in reversed(text) if line.startswith("error: ")), ""),
        "trouble": trouble(here, log, "\n".join(text)) + [f"canary in {path}" for path in leaked],
    }


def ended(pid: int, started: float) -> int:
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() - started > SECONDS:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -99
        time.sleep(0.01)


def trouble(here: Path, log: Path, text: str) -> list[str]:
    found = log.read_text().splitlines()
    if "Traceback" in text:
        found.append("a traceback")
    if any(char < " " and char not in "\n\t\r" for char in text):
        found.append("control characters on the terminal")
    if CANARY.decode() in text:
        found.append("canary on the terminal")
    if TRAP.exists() or list(TRAP.parent.glob(f"{TRAP.name}*")):
        found.append("the trap was sprung")
    key = here / "home" / ".config" / "trtpipe" / "cache.key"
    own = (key, *key.parents)
    found += [f"wrote into the home folder: {path}" for path in (here / "home").rglob("*") if path not in own]
    found += [f"left {path}" for path in (here / "cache" / "tmp").glob("*")]
    return found


def holds_canary(path: Path) -> bool:
    return CANARY in path.read_bytes()


if __name__ == "__main__":
    root, every = Path(sys.argv[1]).resolve(), int((sys.argv[2:3] or ["1"])[0])
    cases = corpus(root / "input", archives=every == 1)
    chosen = [case for case in cases if case.kind in sys.argv[3:4] or not sys.argv[3:4]][::every]
    results = [run(case, number, root) for number, case in enumerate(chosen)]
    sys.stdout.write(json.dumps({"cases": len(cases), "results": results}, indent=1))
