"""The float32 graph, and what it answers to some samples: what lowered graphs are held against without labels."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.backends.base import known_inputs, load_backend
from trtpipe.errors import InputError
from trtpipe.isolation.linux import release_memory
from trtpipe.preflight import folder_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir

    from trtpipe.artifact import Feed, TensorSpec
    from trtpipe.backends.base import OpenRunner
    from trtpipe.calibration.sample_outputs import SampleOutputs
    from trtpipe.config.settings import Settings
    from trtpipe.data.dataset import Dataset
    from trtpipe.isolation.reducer import Runner

#: Bytes of outputs that are held at most.
_OUTPUT_BYTES = 256 << 20
#: Feeds in one batch at most, and bytes of them.
_BATCH, _BATCH_BYTES = 16, 2 << 20
#: Noise over signal power that another batch size may cause by another order of sums.
_ROUNDING = 1e-8


def plain_form(simplified: Path) -> ir.Model:
    """The simplified graph as lowering sees it before it changes anything."""
    from trtpipe.passes.clean_up import load_clean
    from trtpipe.passes.graph_pass import run_passes
    from trtpipe.passes.infer_types import InferTypes

    model = load_clean(simplified)
    run_passes(model, [InferTypes()])
    return model


def forget(graph: Path) -> None:
    """Give back the memory of models that are no longer used, if they are large."""
    release_memory(folder_size(graph.parent))


def run_known(runner: Runner, feed: Feed) -> Feed:
    """Run one feed, of which the graph may not want all."""
    return runner.infer(known_inputs(runner, feed))


def run_every(runner: OpenRunner, feeds: Sequence[Feed], more: Mapping[str, np.ndarray]) -> Iterator[Feed]:
    """What the graph answers to each of the feeds, of which it may not want all; small ones travel together.

    Args:
        more: what to feed with each of them.
    """
    known = [known_inputs(runner, {**feed, **more}) for feed in feeds]
    if not known:
        return
    first = runner.infer(known[0])
    yield first
    size = sum(value.nbytes for value in (*known[0].values(), *first.values()))
    step = min(max(_BATCH_BYTES // max(size, 1), 1), _BATCH)
    for begin in range(1, len(known), step):
        yield from runner.infer_all(known[begin : begin + step])


def run_all(
    exact: OpenRunner, feeds: list[Feed], tolerant: bool, taken: Callable[[Feed], Feed] = dict
) -> tuple[list[Feed], list[Feed]]:
    """The feeds that the float32 graph can be run on, and what is taken of its outputs; as many as fit into memory.

    Args:
        tolerant: leave out feeds on which it fails or is not finite.
        taken: what to remember of all outputs.
    """
    usable: list[Feed] = []
    outputs: list[Feed] = []
    held = 0
    answers = _usable(exact, feeds) if tolerant else zip(feeds, run_every(exact, feeds, {}), strict=True)
    for feed, found in answers:
        usable.append(feed)
        outputs.append(taken(found))
        held += sum(value.nbytes for value in outputs[-1].values())
        if held > _OUTPUT_BYTES:
            break
    return usable, outputs


def _usable(exact: OpenRunner, feeds: list[Feed]) -> Iterator[tuple[Feed, Feed]]:
    for feed in feeds:
        try:
            found = run_known(exact, feed)
        except InputError:
            continue
        if all(np.isfinite(value).all() for value in found.values() if value.dtype.kind == "f"):
            yield feed, found


def exact_outputs(
    simplified: Path,
    dataset: Dataset,
    most: int,
    most_bytes: int,
    workdir: Path,
    runtime: Settings,
    *,
    tolerant: bool,
    stack: bool = False,
    logits: bool = True,
) -> tuple[list[Feed], list[Feed]]:
    """A few feeds, and what the float32 graph answers: logits where an output saturates.

    Args:
        most, most_bytes: feeds at most, and bytes they may take.
        tolerant: leave out feeds on which the graph fails or is not finite.
        stack: join small feeds to batches where the graph treats samples alike in any.
        logits: whether an output that saturates gives way to its logits.
    """
    from trtpipe.data.selection import sample_feeds
    from trtpipe.passes.logits import show_logits

    def graph() -> ir.Model:
        model = plain_form(simplified)
        if logits:
            show_logits(model)
        return model

    with opened(graph(), workdir, runtime) as runner:
        feeds = sample_feeds(dataset, most, most_bytes)
        batches = stacked(runner, feeds) if stack and not tolerant else feeds
        return run_all(runner, batches, tolerant)


@contextmanager
def opened(model: ir.Model, workdir: Path, runtime: Settings, name: str = "opened.onnx") -> Iterator[OpenRunner]:
    """A runner of ``model`` on the CPU; its files are in ``workdir`` meanwhile, ``name`` and what belongs to it.

    Memory of the model is given back before it is opened, unless the caller holds it.
    """
    with written(model, workdir, name) as path:
        del model
        forget(path)
        with load_backend("onnxruntime").open(path, runtime) as runner:
            yield runner


@contextmanager
def written(model: ir.Model, workdir: Path, name: str) -> Iterator[Path]:
    """The file of ``model`` in ``workdir``, with its weights beside it: they are mapped then, and not copied."""
    from trtpipe.preflight.onnx_io import save_sharing

    path = workdir / name
    files = save_sharing(model, path)
    del model  # whoever runs it reads the file
    try:
        yield path
    finally:
        for each in files:
            (workdir / each).unlink(missing_ok=True)


def stacked(runner: Runner, feeds: list[Feed]) -> list[Feed]:
    """Feeds joined along their first axis, as long as they are alike and small; seen on the first batch to change
    nothing, else ``feeds`` as they are.
    """
    groups: list[list[Feed]] = []
    open_groups: dict[tuple[object, ...], list[Feed]] = {}
    for feed in (known_inputs(runner, each) for each in feeds):
        last = open_groups.get(_form(feed), [])
        size = (len(last) + 1) * sum(value.nbytes for value in feed.values())
        if last and len(last) < _BATCH and size <= _BATCH_BYTES:
            last.append(feed)
        else:
            groups.append([feed])
            open_groups[_form(feed)] = groups[-1]
    several = next((group for group in groups if len(group) > 1), None)
    return [_joined(group) for group in groups] if several and _independent(runner, several) else feeds


def _form(feed: Feed) -> tuple[object, ...]:
    """What feeds of one batch have in common: every input's type, and shape behind the first axis."""
    return tuple((name, value.dtype, value.shape[1:], value.ndim) for name, value in sorted(feed.items()))


def _joined(feeds: list[Feed]) -> Feed:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _independent(runner: Runner, feeds: list[Feed]) -> bool:
    """Whether the first axis of all inputs and outputs is one of samples that do not see each other."""
    if any(not spec.shape or isinstance(spec.shape[0], int) for spec in runner.inputs):
        return False
    if any(len({value.shape[0] for value in feed.values()}) != 1 for feed in feeds):
        return False
    alone = [runner.infer(feed) for feed in feeds]
    if any(value.ndim == 0 for value in alone[0].values()):
        return False
    try:
        expected, found = _joined(alone), runner.infer(_joined(feeds))
    except (InputError, ValueError):
        return False
    return all(_same(found[name], value) for name, value in expected.items())


def _same(found: np.ndarray, expected: np.ndarray) -> bool:
    if found.shape != expected.shape or expected.dtype.kind != "f":
        return np.array_equal(found, expected)
    error = np.square(found - expected, dtype=np.float64).sum()
    return bool(error <= _ROUNDING * np.square(expected, dtype=np.float64).sum())


class KnownOutputs:
    """A runner of a graph of which some outputs are known; it is opened for the first feed of which they are not.

    Args:
        known: its outputs.
        outputs: names of all of them.
        device: where they were computed.
        open_graph: opens it.

    Attributes:
        hits: for how many feeds they were.
    """

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(
        self, known: SampleOutputs, outputs: Sequence[str], device: str, open_graph: Callable[[], Runner]
    ) -> None:
        self._known, self._names, self._device = known, outputs, device
        self._open = open_graph
        self._runner: Runner | None = None
        self.hits = 0

    @property
    def device(self) -> str:
        """Where outputs come from."""
        return self._device if self._runner is None else self._runner.device

    def infer(self, feed: Feed) -> Feed:
        """The outputs for one feed; raises what running the graph raises."""
        found = self._known.of(feed, self._names)
        if found is not None:
            self.hits += 1
            return found
        if self._runner is None:
            self._runner = self._open()
        return self._runner.infer(feed)
