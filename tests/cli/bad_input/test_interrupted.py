"""Ctrl-C, and worse, in the middle of a step: nothing is lost, nothing is left behind, and the next run succeeds."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.bad_input.conftest import Snapshot
    from tests.cli.conftest import Run

#: Ctrl-C counts even where the tests themselves were started with it ignored, as a shell does for ``command &``.
TRTPIPE = """\
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from trtpipe.cli import main
main()
"""

SAMPLES = """\
import time
from pathlib import Path
import numpy as np

def samples():
    for index in range(40):
        if Path(__file__).with_name("slow").exists():
            time.sleep(0.05)
        yield {"x": np.full((2, 8), index / 40, np.float32)}
"""

TARGETS = "sm75,sm80,sm86,sm90,sm120"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Samples that take two seconds to walk through while the file ``slow`` lies beside them."""
    path = tmp_path_factory.mktemp("samples") / "samples.py"
    path.write_text(SAMPLES)
    return f"{path}:samples"


@pytest.fixture
def slow(data: str) -> Callable[[bool], None]:
    flag = Path(data.rpartition(":")[0]).with_name("slow")
    return lambda on: flag.touch() if on else flag.unlink(missing_ok=True)


@pytest.fixture
def words(model: Path, data: str, earlier: Path, tmp_path: Path, quick: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A build into the earlier output folder in which the named step has to be done anew, and takes a while."""
    other = tmp_path / "other.onnx"
    proto = onnx.load(model)
    proto.producer_name = "another exporter"
    onnx.save(proto, other)
    measured = tmp_path / "measured.toml"
    measured.write_text("[latency]\ncpu = true\n")
    anew = {
        "export": (),
        "simplify": ("--shapes", "x:2x8"),
        "observe": ("--calib-samples", "70"),
        "compile": ("--target", TARGETS, "--opt-level", "1"),
        "verify": ("--atol", "0.5"),
        "measure": ("--profile", str(measured), "--duration", "60s"),
    }

    def line(step: str) -> list[str]:
        options = [option for option in quick if not (step == "simplify" and option == "--no-simplify")]
        source = other if step == "export" else model
        return ["build", str(source), "-o", str(earlier), "--int8", "--calib-data", data, *options, *anew[step]]

    return line


def start(words: list[str], cache: Path) -> subprocess.Popen[str]:
    """The real command, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", TRTPIPE, "--cache-dir", str(cache), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def stop(process: subprocess.Popen[str], step: str, how: signal.Signals) -> tuple[str, str]:
    """Wait until ``step`` has begun, and end the process. What it said in all."""
    seen = []
    try:
        assert process.stderr is not None
        for text in process.stderr:
            seen.append(text)
            if text.startswith((f"{step}: ", f"{step} sm")):
                assert "cached" not in text
                process.send_signal(how)
                break
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return out, "".join(seen) + errors


def processes_of(cache: Path) -> list[str]:
    """Command lines of processes that work in ``cache``, such as a builder that was forgotten."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if str(cache) in line:
            found.append(line)
    return found


@pytest.mark.parametrize("step", ["export", "simplify", "observe", "compile", "verify", "measure"])
def test_ctrl_c(
    run: Run, cache: Path, earlier: Path, snapshot: Snapshot, slow: Callable[[bool], None],
    words: Callable[[str], list[str]], step: str,
) -> None:  # fmt: skip
    before = snapshot(earlier.parent)
    slow(step in {"observe", "verify"})
    out, errors = stop(start(words(step), cache), step, signal.SIGINT)
    slow(False)
    assert errors.splitlines()[-1] == f"interrupted; nothing was written to {earlier}"
    assert out == ""
    assert "Traceback" not in errors
    assert snapshot(earlier.parent) == before
    assert processes_of(cache) == []
    assert [*(cache / "tmp").iterdir(), *(cache / "partial").glob("*")] == []
    again = run(*words(step), "--duration", "10ms")
    assert again.exit_code == 0, again.output


def test_killed(
    run: Run, cache: Path, earlier: Path, snapshot: Snapshot, slow: Callable[[bool], None],
    words: Callable[[str], list[str]],
) -> None:  # fmt: skip
    """Nobody can tidy up after SIGKILL; the next run does it."""
    before = snapshot(earlier.parent)
    slow(True)
    process = start([*words("observe"), "--calib-samples", "60"], cache)
    stop(process, "observe", signal.SIGKILL)
    slow(False)
    assert process.returncode == -signal.SIGKILL
    assert snapshot(earlier.parent) == before
    assert list((cache / "partial").iterdir()), "it was in the middle of something"
    assert run(*words("observe"), "--calib-samples", "60").exit_code == 0
    assert [*(cache / "tmp").iterdir(), *(cache / "partial").glob("*")] == []
