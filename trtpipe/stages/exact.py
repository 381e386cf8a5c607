"""The float32 graph, and what it answers to some samples: what lowered graphs are held against without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.backends.base import load_backend
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import onnx_ir as ir

    from trtpipe.backends.base import Feed, Runner
    from trtpipe.calibration.dataset import Dataset
    from trtpipe.job import Job

#: Bytes of outputs that are held at most.
_OUTPUT_BYTES = 256 << 20


def plain_form(simplified: Path) -> ir.Model:
    """The simplified graph as lowering sees it before it changes anything."""
    from trtpipe.onnxfile import load_model
    from trtpipe.passes.clean_up import clean_up
    from trtpipe.passes.graph_pass import run_passes
    from trtpipe.passes.infer_types import InferTypes

    model = load_model(simplified)
    clean_up(model)
    run_passes(model, [InferTypes()])
    return model


def run_known(runner: Runner, feed: Feed) -> Feed:
    """Run one feed, of which the graph may not want all."""
    wanted = {spec.name for spec in runner.inputs}
    return runner.infer({name: value for name, value in feed.items() if name in wanted})


def run_all(
    exact: Runner, feeds: list[Feed], tolerant: bool, taken: Callable[[Feed], Feed] = dict
) -> tuple[list[Feed], list[Feed]]:
    """The feeds that the float32 graph can be run on, and what is taken of its outputs; as many as fit into memory.

    Args:
        tolerant: leave out feeds on which it fails or is not finite.
        taken: what to remember of all outputs.
    """
    usable: list[Feed] = []
    outputs: list[Feed] = []
    held = 0
    for feed in feeds:
        try:
            found = run_known(exact, feed)
        except InputError:
            if not tolerant:
                raise
            continue
        if not tolerant or all(np.isfinite(value).all() for value in found.values() if value.dtype.kind == "f"):
            usable.append(feed)
            outputs.append(taken(found))
            held += sum(value.nbytes for value in outputs[-1].values())
            if held > _OUTPUT_BYTES:
                break
    return usable, outputs


def exact_outputs(
    job: Job, simplified: Path, dataset: Dataset, most: int, most_bytes: int, workdir: Path
) -> tuple[list[Feed], list[Feed]]:
    """Evenly spread feeds, and what the float32 graph answers: logits where an output saturates."""
    from trtpipe.calibration.spread import spread_feeds
    from trtpipe.onnxfile import save_model
    from trtpipe.passes.logits import show_logits

    model = plain_form(simplified)
    show_logits(model)
    written = save_model(model, workdir / "exact.onnx")
    del model
    try:
        with load_backend("onnxruntime").open(workdir / "exact.onnx", job.settings) as runner:
            feeds = spread_feeds(dataset, most, most_bytes)
            return run_all(runner, feeds, tolerant=job.recipe.data.skip_bad_samples > 0)
    finally:
        for name in written:
            (workdir / name).unlink(missing_ok=True)
