"""Reference inputs of a package, and the outputs of its lowered graph for them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from trtpipe.backends.base import known_inputs, load_backend
from trtpipe.data.input_checks import checked
from trtpipe.data.sample import Sample
from trtpipe.data.synthetic import RandomDataset
from trtpipe.delivery.record import Reference
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import InputError, StageError
from trtpipe.reference.pytorch_outputs import load_reference, save_reference
from trtpipe.reference.runnable import runnable_graph
from trtpipe.regression.bundle import entries

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from trtpipe.artifact import Feed
    from trtpipe.config.settings import Settings
    from trtpipe.regression.bundle import Build

#: Name of the file, and how much it holds at most where nothing else is asked for.
REFERENCE = "reference.npz"
FEEDS, MOST_BYTES = 4, 16 << 20


def known_feeds(build: Build) -> tuple[list[Feed], bool]:
    """Inputs that a build itself has: those that PyTorch ran on, else seeded random ones at the typical shapes.

    Returns:
        The feeds, and whether they are real samples.
    """
    found = entries(build.manifest.artifacts)
    real = build.parity is not None and build.parity.data != "" and not build.parity.synthetic
    if "reference" in found:
        feeds, _ = load_reference(build.path("reference"))
        return _few(feeds), real
    shapes: dict[str, tuple[int, ...]] = {}
    for label, entry in found.items():
        if label.startswith("engine:") and len(entry.files) > 1:
            path = build.path(label)
            profiles = EngineRecord.read(path.with_name(f"{path.name}.json")).profiles
            shapes |= {name: each.opt for name, each in profiles[0].items()} if profiles else {}
    random = RandomDataset(build.contract, shapes, FEEDS, 0)
    return _few(sample.feed for sample in random), False


def given_feeds(build: Build, feeds: Iterable[Feed], where: str, most: int = FEEDS) -> list[Feed]:
    """The first of somebody's feeds, as the model takes them.

    Raises:
        InputError: there are none, or one does not fit the model.
    """
    found = [
        checked(Sample(feed), build.contract, f"{where}: sample {index}").feed
        for index, feed in enumerate(islice(feeds, most))
    ]
    if not found:
        raise InputError(f"{where}: there are no samples", "give data the model can run on")
    return found


def write_reference(
    build: Build, feeds: list[Feed], *, real: bool, folder: Path, settings: Settings
) -> Reference | None:
    """Run the lowered graph on ``feeds``, and write both to ``reference.npz`` in ``folder``; ``None`` for a graph with
    plug-ins, which a CPU does not run to its end.

    Raises:
        StageError: the graph does not run on them.
    """
    graph, note = runnable_graph(build.path("lowered"), build.manifest.precision.half, folder)
    with load_backend("onnxruntime").open(graph, settings) as runner:
        if [spec.name for spec in runner.outputs] != [spec.name for spec in build.contract.outputs]:
            return None
        known = [known_inputs(runner, feed) for feed in feeds]
        try:
            outputs = [runner.infer(feed) for feed in known]
        except InputError as error:
            raise StageError(
                f"the reference outputs cannot be computed: {error.message}",
                "give samples whose values the model takes"
                if real
                else "give real inputs with --samples DATA: seeded random ones may be outside what the model takes",
            ) from error
        device = ", ".join(word for word in (runner.device, note) if word)
    save_reference(folder / REFERENCE, known, outputs)
    return Reference(REFERENCE, len(known), "real" if real else "random", device)


def _few(feeds: Iterable[Feed]) -> list[Feed]:
    """The first feeds that are few and small; one at least."""
    found: list[Feed] = []
    size = 0
    for feed in islice(feeds, FEEDS):
        size += sum(value.nbytes for value in feed.values())
        if found and size > MOST_BYTES:
            break
        found.append(feed)
    return found
