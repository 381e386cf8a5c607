"""Large outputs need not travel: what makes little of them goes to the runner, wherever that is."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trtpipe.artifact import Feed


class Reducer(Protocol):
    """What makes little of the values of many runs, beside the runner: large arrays need not travel."""

    def take(self, feed: Feed, outputs: Feed) -> Feed:
        """Take in one run, or raise and take in nothing of it; the arrays are good until the next one.

        Returns:
            The outputs that are not its business.
        """

    def result(self) -> Feed:
        """What all runs came to since it was last asked."""


class Reduction(Protocol):
    """Runs of a model whose outputs go to a reducer, wherever it runs."""

    def run(self, feed: Feed) -> Feed:
        """Run once; the outputs that the reducer leaves."""

    def result(self) -> Feed:
        """What all runs came to since it was last asked."""


class ReductionHere:
    """A reduction in this process.

    Args:
        run: the model; the arrays it gives need be good only until it is called again.
    """

    def __init__(self, run: Callable[[Feed], Feed], reducer: Reducer) -> None:
        self._run = run
        self._reducer = reducer

    def run(self, feed: Feed) -> Feed:
        """Run once; the outputs that the reducer leaves."""
        return self._reducer.take(feed, self._run(feed))

    def result(self) -> Feed:
        """What all runs came to since it was last asked."""
        return self._reducer.result()


def load_reducer(reducer: str, names: Sequence[str]) -> Reducer:
    """The reducer called ``trtpipe.module:Class``, made from ``names``."""
    module, _, attribute = reducer.partition(":")
    made: Reducer = getattr(importlib.import_module(module), attribute)(names)
    return made
