"""Progress that draws, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import trtpipe


def play(listener: trtpipe.Progress) -> None:
    listener.begin("export")
    listener.end("export", "hit")
    listener.begin("compile sm89")
    listener.advance("building", 10, 40)
    listener.note("a note\x1b[2J")
    listener.warn("a warning\nof two lines")
    listener.end("compile sm89", "built")
    listener.begin("verify")
    listener.end("verify", "failed")


@pytest.mark.parametrize("terminal", [True, False])
def test_finished_steps_stand_with_their_outcome(terminal: bool) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=100, color_system=None)
    listener = trtpipe.RichProgress(console)  # a notebook needs no with
    play(listener)
    text = screen.getvalue()
    for line in ("export           cached", "compile sm89     done", "verify           FAILED"):
        assert line in text
    assert r"a note\x1b[2J" in text
    assert r"warning: a warning\nof two lines" in text
    assert ("\x1b" in text) == terminal


def test_an_error_inside_leaves_the_terminal_as_it_was() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    with pytest.raises(KeyboardInterrupt):
        interrupted(console)
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l")


def interrupted(console: Console) -> None:
    with trtpipe.RichProgress(console) as listener:
        listener.begin("export")
        raise KeyboardInterrupt
