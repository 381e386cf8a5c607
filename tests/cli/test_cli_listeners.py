"""Progress as lines, in a log and on a terminal."""

from __future__ import annotations

import gc
import io
import weakref
from typing import TYPE_CHECKING

import pytest

from trtpipe.cli import listeners
from trtpipe.cli.listeners import Lines, LogFile, Several
from trtpipe.cli.session import Session

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.progress import Progress


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(listeners, "time", clock)
    return clock


def play(listener: Progress) -> None:
    """A short run with a bit of everything."""
    listener.begin("export")
    listener.end("export", "hit")
    listener.begin("compile sm89")
    listener.advance("parsing", 0, None)
    listener.advance("building", 0, 40)
    listener.advance("building", 10, 40)
    listener.note("a note\x1b[2J")
    listener.warn("a warning\nof two lines")
    listener.end("compile sm89", "built")
    listener.begin("verify")
    listener.end("verify", "failed")


class TestLines:
    def test_normal(self, clock: Clock) -> None:
        lines: list[str] = []
        play(Lines(lines.append))
        assert lines == [
            "export: cached",
            "compile sm89: parsing",
            r"note: a note\x1b[2J",
            r"warning: a warning\nof two lines",
            "compile sm89: done in 0 us",
            "verify: FAILED in 0 us",
        ]

    def test_detailed_has_every_phase(self, clock: Clock) -> None:
        lines: list[str] = []
        play(Lines(lines.append, verbosity=1))
        assert lines[1:3] == ["compile sm89: parsing", "compile sm89: building"]

    def test_quiet_has_warnings_only(self, clock: Clock) -> None:
        lines: list[str] = []
        play(Lines(lines.append, verbosity=-1))
        assert lines == [r"warning: a warning\nof two lines"]

    def test_long_work_gives_a_sign_of_life_every_few_seconds(self, clock: Clock) -> None:
        lines: list[str] = []
        listener = Lines(lines.append)
        listener.begin("calibrate")
        for done in range(53):
            listener.advance("calibrate", done, 52)
            clock.now += 1
        listener.end("calibrate", "built")
        assert lines == [
            "calibrate: running",
            "calibrate: 10 of 52 (19 %), 42.0 s left",
            "calibrate: 20 of 52 (38 %), 32.0 s left",
            "calibrate: 30 of 52 (57 %), 22.0 s left",
            "calibrate: 40 of 52 (76 %), 12.0 s left",
            "calibrate: 50 of 52 (96 %), 2.0 s left",
            "calibrate: done in 53.0 s",
        ]

    def test_unknown_total(self, clock: Clock) -> None:
        lines: list[str] = []
        listener = Lines(lines.append)
        listener.begin("calibrate")
        listener.advance("reading", 7, None)
        assert lines == ["calibrate: reading 7"]


class TestLogFile:
    def test_adds_to_what_is_there(self, tmp_path: Path) -> None:
        for _ in range(2):
            log = LogFile(tmp_path / "log")
            play(Several([Lines(log.write)]))
            log.close()
        lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 12
        assert lines[0].partition(" ")[2] == "export: cached"

    def test_full_disk_ends_the_log_and_not_the_work(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        log = LogFile(tmp_path / "log")
        log._stream.close()
        log._stream = io.TextIOWrapper(Full(), write_through=True)
        play(Lines(log.write))
        log.close()
        assert capsys.readouterr().err.splitlines() == [
            f"warning: {tmp_path}/log: the log ends here: No space left on device"
        ]


class Full(io.BytesIO):
    """A file on a full disk."""

    def write(self, data: object) -> int:
        raise OSError(28, "No space left on device")


class Ring:
    """An object in a circle with itself."""

    def __init__(self) -> None:
        self.myself = self


class TestSettling:
    def test_what_a_step_left_behind_is_collected_first_and_then_never_looked_at_again(self) -> None:
        gc.unfreeze()  # tests of commands may have run in this process before
        dropped, kept = weakref.ref(Ring()), Ring()
        try:
            with Session().listening() as listener:
                listener.end("export", "hit")
                assert gc.get_freeze_count() == 0
                listener.end("simplify", "built")
            assert dropped() is None
            assert gc.get_freeze_count() > 0
            assert not any(each is kept for each in gc.get_objects())
        finally:
            gc.unfreeze()
