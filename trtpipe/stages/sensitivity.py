"""sensitivity: the simplified graph and ranges -> ``sensitivity.json``: how much each group of layers harms.

Not on the way to an engine: it is asked for, by ``trtpipe sensitivity`` and ``trtpipe tune``, and kept like any result.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.errors import InputError, StageError
from trtpipe.profile import CALIBRATED
from trtpipe.progress import track
from trtpipe.stages.switching import board_for, exact_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.accuracy.sensitivity import OutputNoise
    from trtpipe.backends.base import Feed
    from trtpipe.digest import JSON
    from trtpipe.job import Inputs, Job
    from trtpipe.progress import Progress
    from trtpipe.stages.switching import Switchboard

SENSITIVITY = "sensitivity.json"


class Sensitivity:
    """Lowers every group alone, and all together, and compares outputs with the float32 graph's.

    Args:
        samples: feeds at most, evenly spread over the data.
        half: whether float16 is tried as well.
    """

    name = "sensitivity"
    produces = "sensitivity"
    version = 1
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
        from trtpipe.accuracy.sensitivity import GroupSensitivity, OutputNoise
        from trtpipe.accuracy.sensitivity import Sensitivity as Report
        from trtpipe.calibration.ranges import Ranges

        ranges = Ranges.read(inputs.path("ranges"))
        dataset = inputs.datasets.get("calibration-data")
        if dataset is None:
            raise InputError("sensitivity is judged on real samples, and no data was given", "add --calib-data DATA")
        feeds, expected = exact_outputs(job, inputs, workdir, dataset, self._samples)
        measure = OutputNoise(expected)
        board = board_for(job, inputs, ranges, workdir, logits=True)
        noise = _alone(board, measure, feeds, progress, "sensitivity")
        with board.open(range(len(board.groups))) as runner:
            everything = measure(runner, feeds)
        half: Sequence[float | None] = [None] * len(noise)
        if self._half:
            second = board_for(job, inputs, ranges, workdir, logits=True, half=True)
            half = _alone(second, measure, feeds, progress, "sensitivity in fp16")
        report = Report(
            precision=job.profile.precision,
            data=dataset.name,
            samples=len(feeds),
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
        for leftover in workdir.iterdir():
            leftover.unlink()
        report.write(workdir / SENSITIVITY)
        return Draft("sensitivity", workdir, (SENSITIVITY,)), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """There is at least one group."""
        from trtpipe.accuracy.sensitivity import Sensitivity as Report

        if not Report.read(draft.path).groups:
            raise StageError("there is nothing to choose", "see trtpipe inspect")


def _alone(board: Switchboard, measure: OutputNoise, feeds: list[Feed], progress: Progress, phase: str) -> list[float]:
    """The noise of each group by itself."""
    found = []
    for index in track(progress, phase, range(len(board.groups)), len(board.groups)):
        with board.open({index}) as runner:
            found.append(measure(runner, feeds))
    return found
