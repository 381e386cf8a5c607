"""The real command in a real process: pipes, signals, full disks, ``python -m``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING

import pytest

import trtpipe

if TYPE_CHECKING:
    from pathlib import Path

TRTPIPE = [sys.executable, "-m", "trtpipe"]
#: Ctrl-C counts even where the tests themselves were started with it ignored, as a shell does for ``command &``.
INTERRUPTIBLE = """\
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from trtpipe.cli import main
main()
"""


def trtpipe_process(*words: str | Path, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", INTERRUPTIBLE, *map(str, words)]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_module_and_script_are_the_same_command() -> None:
    script = [sys.executable, "-c", "import sys; from trtpipe.cli import main; sys.argv[0] = 'trtpipe'; main()"]
    outputs = [
        subprocess.run([*words, "--version"], capture_output=True, text=True, check=True).stdout
        for words in (TRTPIPE, script)
    ]
    assert outputs == [f"trtpipe, version {trtpipe.__version__}\n"] * 2


def test_reader_that_goes_away_is_no_error(bundle: Path) -> None:
    process = trtpipe_process("inspect", bundle / "manifest.json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 0


def test_full_disk_on_stdout_is_told(bundle: Path) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        process = trtpipe_process("inspect", bundle / "manifest.json", stdout=full)
        _, errors = process.communicate()
    assert process.returncode == 6
    assert errors.splitlines() == [
        "error: cannot write to standard output: No space left on device",
        "  try: free some space, or send the output elsewhere",
    ]


def test_json_alone_on_stdout_with_progress_on_stderr(bundle: Path, cache: Path, tmp_path: Path) -> None:
    words = ("measure", bundle / "lowered.onnx", "--duration", "20ms", "--json", "-v", "--cache-dir", cache)
    out, errors = trtpipe_process(*words).communicate()
    assert json.loads(out)["command"] == "measure"
    assert "measure: done in " in errors


def test_interrupted_run_leaves_the_output_as_it_was(bundle: Path, cache: Path, tmp_path: Path) -> None:
    words = ("measure", bundle / "lowered.onnx", "--duration", "60s", "-o", tmp_path / "out", "--cache-dir", cache)
    with trtpipe_process(*words) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("measure: ")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.split("\n")[-2] == f"interrupted; nothing was written to {tmp_path}/out"
    assert not (tmp_path / "out").exists()


def test_terminal_gets_a_moving_display(bundle: Path, cache: Path) -> None:
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    words = ("measure", str(bundle / "lowered.onnx"), "--duration", "400ms", "--cache-dir", str(cache))
    process = subprocess.Popen([*TRTPIPE, *words], stdout=subprocess.PIPE, stderr=slave, text=True)
    os.close(slave)
    out, _ = process.communicate(timeout=60)
    shown = b""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.returncode == 0
    assert b"\x1b[" in shown
    assert "measure          done" in shown.decode().replace("\x1b[32m", "").replace("\x1b[0m", "")
    assert "\x1b" not in out
