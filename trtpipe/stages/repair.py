"""repair: statistics -> ``repair.json``: which method of calibration leaves the least noise with everything in 8 bits.

The free repairs before any layer is taken out: another way to choose ranges, of activations and of weights, costs
nothing at run time. Judged without labels, on the outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.accuracy.sensitivity import OutputNoise
from trtpipe.artifact import Draft, Record
from trtpipe.backends.base import load_backend
from trtpipe.errors import InputError, StageError
from trtpipe.methods import Method, SingleMethod
from trtpipe.profile import CALIBRATED, EIGHT_BIT
from trtpipe.progress import track
from trtpipe.recipe import WeightMethod
from trtpipe.stages.switching import board_for, exact_outputs

if TYPE_CHECKING:
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.digest import JSON
    from trtpipe.job import Inputs, Job
    from trtpipe.progress import Progress

REPAIR = "repair.json"
_SAMPLES = 64
#: Another method has to leave this share less noise to be worth a change.
_GAIN = 0.05
_METHODS: tuple[SingleMethod, ...] = ("percentile", "mse", "entropy", "max")


class MethodNoise(Record):
    """What a way to choose ranges leaves.

    Attributes:
        method, weights: as in a recipe.
        noise: noise over signal power at the outputs, everything in 8 bits.
    """

    method: Method
    weights: WeightMethod
    noise: float


class Repairs(Record):
    """``repair.json``: what was tried, the recipe's own method first; and the best."""

    tried: tuple[MethodNoise, ...]
    best: MethodNoise


class Repair:
    """Tries methods of calibration on the outputs."""

    name = "repair"
    produces = "repair"
    version = 1
    packages = ("onnxruntime", "numpy", "onnx-ir", "onnx")

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The graph, the statistics, the ranges of the recipe's own method, and samples."""
        return ("simplified", "statistics", "ranges", "calibration-data")

    def skip(self, job: Job) -> str | None:
        """Only 8-bit precisions have ranges."""
        precision = job.profile.precision
        return None if precision in CALIBRATED else f"{precision} needs no ranges"

    def key(self, job: Job) -> JSON:
        """The precision, the recipe's own method, and what stays high."""
        return {
            "precision": job.profile.precision,
            "keep": list(job.profile.keep),
            "method": job.recipe.method,
            "percentile": job.recipe.percentile,
            "weights": job.recipe.weights,
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The runner."""
        return load_backend("onnxruntime").fingerprint(job.settings)

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Lower everything by each method."""
        from trtpipe.calibration.ranges import Ranges, derive_ranges
        from trtpipe.calibration.statistics_file import load_statistics

        dataset = inputs.datasets.get("calibration-data")
        if dataset is None:
            raise InputError("methods are judged on real samples, and no data was given", "add --calib-data DATA")
        feeds, expected = exact_outputs(job, inputs, workdir, dataset, _SAMPLES)
        measure = OutputNoise(expected)
        statistics = load_statistics(inputs.path("statistics"))
        precision = EIGHT_BIT[job.profile.precision]

        def noise(ranges: Ranges, weights: WeightMethod) -> float:
            board = board_for(job, inputs, ranges, workdir, logits=True, weights=weights)
            with board.open(range(len(board.groups))) as runner:
                return measure(runner, feeds)

        recipe = job.recipe
        own = Ranges.read(inputs.path("ranges"))
        by_method: dict[Method, Ranges] = {recipe.method: own}
        by_method |= {
            method: derive_ranges(statistics, method, recipe.percentile, precision)
            for method in _METHODS
            if method != recipe.method
        }
        tried = [
            MethodNoise(method=method, weights=recipe.weights, noise=noise(ranges, recipe.weights))
            for method, ranges in track(progress, "methods", by_method.items(), len(by_method))
        ]
        first = min(tried, key=lambda each: each.noise)
        other: WeightMethod = "mse" if recipe.weights == "max" else "max"
        second = noise(by_method[first.method], other)
        tried.append(MethodNoise(method=first.method, weights=other, noise=second))
        best = min(tried, key=lambda each: each.noise)
        for leftover in workdir.iterdir():
            leftover.unlink()
        worth = best.noise < tried[0].noise * (1 - _GAIN)
        Repairs(tried=tuple(tried), best=best if worth else tried[0]).write(workdir / REPAIR)
        return Draft("repair", workdir, (REPAIR,)), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """Something was tried."""
        if not Repairs.read(draft.path).tried:
            raise StageError("no method was tried", "report this as a bug")
