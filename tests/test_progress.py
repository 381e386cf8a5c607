from __future__ import annotations

from typing import Any

import pytest

from trtpipe.progress import NullProgress, Progress, track


class Listener(NullProgress):
    def __init__(self) -> None:
        self.heard: list[tuple[str, int, int | None]] = []

    def advance(self, phase: str, done: int, total: int | None) -> None:
        self.heard.append((phase, done, total))


def test_an_item_counts_once_the_consumer_is_done_with_it() -> None:
    listener = Listener()
    seen: list[tuple[str, int]] = []
    for item in track(listener, "read", "ab", 2):
        seen.append((item, listener.heard[-1][1]))
    assert seen == [("a", 0), ("b", 1)]
    assert listener.heard == [("read", 0, 2), ("read", 1, 2), ("read", 2, 2)]


def test_an_unknown_total_and_no_items() -> None:
    listener = Listener()
    assert list(track(listener, "read", iter(()), None)) == []
    assert listener.heard == [("read", 0, None)]


def test_an_item_that_fails_is_not_counted() -> None:
    listener = Listener()

    def fail(item: int) -> None:
        raise RuntimeError(item)

    def consume() -> None:
        for item in track(listener, "read", [1, 2], 2):
            fail(item)

    with pytest.raises(RuntimeError):
        consume()
    assert listener.heard == [("read", 0, 2)]


def test_silent_is_a_progress_and_tells_nobody(capsys: Any) -> None:
    progress: Progress = NullProgress()
    progress.begin("compile sm89")
    progress.advance("read", 1, None)
    progress.note("note")
    progress.warn("warning")
    progress.end("compile sm89", "built")
    assert capsys.readouterr() == ("", "")
