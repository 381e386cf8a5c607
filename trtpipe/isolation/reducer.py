"""What runs a model; and reducers, which take the outputs of many runs in the process where it runs, so that large
arrays need not leave that process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from trtpipe.isolation.imports import load_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trtpipe.artifact import Feed, TensorSpec


class Runner(Protocol):
    """A model or engine that is ready to infer."""

    @property
    def device(self) -> str:
        """Where it runs, for reports: ``onnxruntime 1.32.0 on CPU``."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def infer(self, feed: Feed) -> Feed:
        """Run once. ``feed`` must name every input; the result names every output."""


class Reducer(Protocol):
    """Reduces the outputs of many runs to a small result, such as histograms."""

    def take(self, feed: Feed, outputs: Feed) -> Feed:
        """Add one run, or raise and add nothing of it; the arrays are valid until the next one.

        Returns:
            The outputs that the reducer does not take.
        """

    def result(self) -> Feed:
        """The result of all runs since it was last asked for."""


class Reduction(Protocol):
    """Runs of a model whose outputs go to a reducer, in this process or another."""

    def run(self, feed: Feed) -> Feed:
        """Run once; the outputs that the reducer does not take."""

    def result(self) -> Feed:
        """The result of all runs since it was last asked for."""


class LocalReduction:
    """A reduction in this process.

    Args:
        run: the model; the arrays it returns need be valid only until it is called again.
    """

    def __init__(self, run: Callable[[Feed], Feed], reducer: Reducer) -> None:
        self._run = run
        self._reducer = reducer

    def run(self, feed: Feed) -> Feed:
        return self._reducer.take(feed, self._run(feed))

    def result(self) -> Feed:
        return self._reducer.result()


def load_reducer(reducer: str, names: Sequence[str]) -> Reducer:
    """The reducer called ``trtpipe.module:Class``, made from tensor ``names``."""
    made: Reducer = load_name(reducer)(names)
    return made
