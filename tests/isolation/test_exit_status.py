from __future__ import annotations

import errno
import signal
import subprocess
import sys

import pytest

from trtpipe.errors import (
    Cancelled,
    HostError,
    InputError,
    InternalError,
    OutOfMemory,
    OutOfTime,
    RecipeError,
    StageError,
    WorkerCrashed,
    WorkerError,
)
from trtpipe.isolation.exit_status import NO_SPACE_STATUS, Ending, Outcome, error_of, last_lines, raise_from


class Private(InputError):
    """An error class that the parent need not know."""


def ending(status: int, stopped: str = "", limit: float = 0.0, phase: str = "", output: str = "") -> Ending:
    return Ending(status=status, stopped=stopped, limit=limit, phase=phase, output=output)


@pytest.mark.parametrize(
    ("end", "kind", "message"),
    [
        (ending(-9, "time", 90.0), OutOfTime, "stopped after the time limit of 1 min 30 s while X"),
        (
            ending(-9, "memory", 2e9, "parsing"),
            OutOfMemory,
            "stopped at the memory limit of 2.0 GB while X (in phase 'parsing')",
        ),
        (ending(-int(signal.SIGFPE)), WorkerCrashed, "the worker process crashed (SIGFPE) while X"),
        (
            ending(-9, "time", 5.0, output="at node q"),
            OutOfTime,
            "stopped after the time limit of 5.0 s while X; last output: at node q",
        ),
        (ending(-9, "cancelled"), Cancelled, "cancelled while X"),
        (ending(-9), OutOfMemory, "killed (SIGKILL) while X; most likely the system ran out of memory"),
        (ending(-63), WorkerCrashed, "the worker process crashed (signal 63) while X"),
        (
            ending(3, output="a\nb"),
            WorkerError,
            "the worker process ended with exit status 3 while X; last output: a | b",
        ),
        (ending(-6, output="terminate called\n what(): std::bad_alloc"), OutOfMemory, "out of memory while X"),
    ],
)
def test_errors_in_words(end, kind, message):
    error = error_of(end, "X")
    assert type(error) is kind
    assert error.message == message


def test_a_disk_too_full_for_the_answer():
    assert isinstance(error_of(ending(NO_SPACE_STATUS), "X"), HostError)


def test_last_lines_leave_out_noise_and_control_characters():
    text = "one\n\n[E] (cudaError 35: driver is insufficient)\n\x1b[31mtwo\x07\nthree\n" + "f" * 500
    assert last_lines(text) == "[31mtwo | three | " + "f" * 200


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_file_or_the_folder(code):
    for filename, named in (("big.plan", "big.plan"), (None, "/scratch")):
        outcome = Outcome.of_error(OSError(code, "full", filename), "/scratch")
        with pytest.raises(HostError, match=f"device holding {named} while X"):
            raise_from(outcome, "X")


class TestNarrowAddressSpace:
    """Libraries that get no memory say anything; the cause is the limit, whatever they say."""

    @pytest.fixture
    def narrow(self, monkeypatch):
        monkeypatch.setattr("trtpipe.isolation.exit_status.address_space_limit", lambda: 1 << 30)

    @pytest.mark.parametrize(
        "outcome",
        [
            Outcome(kind="error", error="StageError", message="torch cannot export it", unmapped=True),
            Outcome(kind="error", error="BuildError", message="x: failed to map segment from shared object"),
            Outcome(kind="bug", message="SystemError: error return without exception set", unmapped=True),
            Outcome(kind="memory"),
        ],
        ids=lambda outcome: outcome.error or outcome.kind,
    )
    def test_an_unclear_failure_is_blamed_on_the_limit(self, narrow, outcome):
        with pytest.raises(HostError, match=r"while X: the address space is limited to 1\.1 GB \(ulimit -v\)"):
            raise_from(outcome, "X")

    @pytest.mark.parametrize("unmapped", [True, False])
    def test_what_is_wrong_with_the_input_stays_so(self, narrow, unmapped):
        with pytest.raises(InputError, match="no such function"):
            raise_from(Outcome(kind="error", error="InputError", message="no such function", unmapped=unmapped), "X")

    def test_without_a_limit_the_library_is_believed(self):
        with pytest.raises(StageError, match="cannot export"):
            raise_from(Outcome(kind="error", error="StageError", message="cannot export", unmapped=True), "X")

    def test_a_process_knows_that_it_can_map_no_more(self):
        program = """
import resource
from trtpipe.isolation.exit_status import Outcome
assert not Outcome.of_error(ValueError(), "").unmapped
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmPeak")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30), size + (1 << 30)))
assert not Outcome.of_error(ValueError(), "").unmapped
resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 20), size + (8 << 20)))
assert Outcome.of_error(ValueError(), "").unmapped
"""
        subprocess.run([sys.executable, "-c", program], check=True)


def test_errors_survive_the_journey():
    with pytest.raises(RecipeError) as caught:
        raise_from(Outcome.of_error(RecipeError("wrong", "right it"), ""), "X")
    assert (caught.value.message, caught.value.remedy) == ("wrong", "right it")
    with pytest.raises(InputError) as caught:
        raise_from(Outcome.of_error(Private("wrong", "right it"), ""), "X")
    assert type(caught.value) is InputError
    with pytest.raises(WorkerError, match=r"out of memory while X \(9 GB\)"):
        raise_from(Outcome.of_error(MemoryError("9 GB"), ""), "X")
    with pytest.raises(HostError, match="Permission denied: a while X"):
        raise_from(Outcome.of_error(PermissionError(errno.EACCES, "Permission denied", "a"), ""), "X")
    with pytest.raises(InternalError, match="FileNotFoundError"):
        raise_from(Outcome.of_error(FileNotFoundError(errno.ENOENT, "No such file", "a"), ""), "X")
