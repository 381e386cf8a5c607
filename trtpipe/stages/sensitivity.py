"""sensitivity: the simplified graph and ranges -> ``sensitivity.json``: how much each group of layers harms.

Not on the way to an engine: it is asked for, by ``trtpipe sensitivity`` and ``trtpipe tune``, and kept like any result.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.errors import InputError, StageError
from trtpipe.profile import CALIBRATED, EIGHT_BIT
from trtpipe.progress import track
from trtpipe.stages.exact import exact_outputs, run_known
from trtpipe.stages.switching import switchboard

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from trtpipe.accuracy.noise import OutputNoise
    from trtpipe.backends.base import Feed
    from trtpipe.digest import JSON
    from trtpipe.job import Inputs, Job
    from trtpipe.passes.cuts import Cut
    from trtpipe.progress import Progress
    from trtpipe.stages.switching import Switchboard

SENSITIVITY = "sensitivity.json"
#: Bytes of feeds that are held at most.
_FEED_BYTES = 256 << 20


class Sensitivity:
    """Lowers every group alone, and all together, and compares outputs with the float32 graph's.

    Args:
        samples: feeds at most, evenly spread over the data.
        half: whether float16 is tried as well.
    """

    name = "sensitivity"
    produces = "sensitivity"
    version = 2
    packages = ("onnxruntime", "numpy", "onnx-ir", "onnx")

    def __init__(self, samples: int = 64, *, half: bool = False) -> None:
        self._samples = samples
        self._half = half

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The graph, its ranges, and samples."""
        return ("simplified", "ranges", "calibration-data")

    def skip(self, job: Job) -> str | None:
        """Only 8-bit precisions have something to choose."""
        precision = job.profile.precision
        return None if precision in CALIBRATED else f"{precision} is not chosen layer by layer"

    def key(self, job: Job) -> JSON:
        """The precision, what stays high anyway, how far weights reach, and how many samples."""
        return {
            "precision": job.profile.precision,
            "keep": list(job.profile.keep),
            "int8_nodes": list(job.profile.int8_nodes) if job.profile.precision == "best" else None,
            "weights": job.recipe.weights,
            "samples": self._samples,
            "half": self._half,
            "shapes": {name: list(shape) for name, shape in job.opt_shapes.items()},
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The runner."""
        return load_backend("onnxruntime").fingerprint(job.settings)

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """One run of every sample for each group."""
        from trtpipe.accuracy.noise import OutputNoise
        from trtpipe.accuracy.sensitivity import GroupSensitivity
        from trtpipe.accuracy.sensitivity import Sensitivity as Report
        from trtpipe.calibration.ranges import Ranges

        simplified, ranges = inputs.path("simplified"), Ranges.read(inputs.path("ranges"))
        dataset = inputs.datasets.get("calibration-data")
        if dataset is None:
            raise InputError("sensitivity is judged on real samples, and no data was given", "add --calib-data DATA")
        feeds, expected = exact_outputs(job, simplified, dataset, self._samples, _FEED_BYTES, workdir, stack=True)
        measure = OutputNoise(expected)
        if not measure.telling:
            raise InputError(
                "sensitivity is judged by the model's float outputs, and it has none that differ from 0",
                "give another model, or data that reaches its outputs",
            )
        board = switchboard(job, simplified, ranges, EIGHT_BIT[job.profile.precision], workdir)
        if not board.groups:
            raise StageError(
                "no node of this model can be lowered, so there is nothing to choose", "see trtpipe inspect"
            )
        noise = _alone(board, measure, feeds, progress, "sensitivity")
        everything = _noise(board, range(len(board.groups)), measure, feeds)
        half: Sequence[float | None] = [None] * len(noise)
        if self._half:
            second = switchboard(job, simplified, ranges, "fp16", workdir)
            half = _alone(second, measure, feeds, progress, "sensitivity in fp16")
        board.close()
        report = Report(
            precision=job.profile.precision,
            data=dataset.name,
            samples=sum(map(_rows, feeds)),
            groups=tuple(
                GroupSensitivity(
                    name=group.nodes[0],
                    nodes=group.nodes,
                    operators=group.operators,
                    macs=group.macs,
                    noise=alone,
                    half_noise=in_half,
                )
                for group, alone, in_half in zip(board.groups, noise, half, strict=True)
            ),
            all_noise=everything,
            never=board.never,
        )
        report.write(workdir / SENSITIVITY)
        return Draft("sensitivity", workdir, (SENSITIVITY,)), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """There is at least one group."""
        from trtpipe.accuracy.sensitivity import Sensitivity as Report

        if not Report.read(draft.path).groups:
            raise StageError("there is nothing to choose", "see trtpipe inspect")


def _rows(feed: Feed) -> int:
    return min((value.shape[0] for value in feed.values() if value.ndim), default=1)


def _alone(board: Switchboard, measure: OutputNoise, feeds: list[Feed], progress: Progress, phase: str) -> list[float]:
    """The noise of each group by itself; for groups behind a cut only what comes behind it is run."""
    cuts, stored = _stored(board, feeds)
    count = len(board.groups)
    found: list[float] = []
    for index in track(progress, phase, range(count), count):
        cut = next((cut for cut in reversed(cuts) if cut.position < board.groups[index].first), None)
        found.append(_noise(board, (index,), measure, feeds if cut is None else stored, cut))
    return found


def _stored(board: Switchboard, feeds: list[Feed]) -> tuple[tuple[Cut, ...], list[Feed]]:
    """The cuts whose values fit into memory, and the feeds with these values in float32."""
    values = tuple(dict.fromkeys(name for cut in board.cuts for name in cut.values))
    if not values:
        return (), feeds
    scales = board.scales(board.amax)
    with board.open((), show=values) as runner:
        first = run_known(runner, {**feeds[0], **scales})
        cuts, held = [], 0
        for cut in board.cuts:
            held += len(feeds) * sum(first[name].nbytes for name in cut.values)
            if held <= _FEED_BYTES:
                cuts.append(cut)
        names = {name for cut in cuts for name in cut.values}
        stored = []
        for feed in feeds if names else ():
            found = run_known(runner, {**feed, **scales})
            stored.append({**feed, **{name: found[name] for name in names}})
    return tuple(cuts), stored


def _noise(
    board: Switchboard, groups: Collection[int], measure: OutputNoise, feeds: list[Feed], begin: Cut | None = None
) -> float:
    """Noise over signal power with these groups lowered, the mean over feeds and outputs."""
    scales = board.scales(board.amax)
    with board.open(groups, begin=begin) as runner:
        found = [measure.shares(index, run_known(runner, {**feed, **scales})) for index, feed in enumerate(feeds)]
    return float(np.mean(found))
