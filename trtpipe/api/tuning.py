"""The public functions of quantization sensitivity: which layers to keep in higher precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.api.arguments import ModelArguments, takes
from trtpipe.api.request import refuse_missing, refuse_without_data, requested
from trtpipe.api.results import JSON, run_published
from trtpipe.api.settings_files import profile_toml, recipe_toml
from trtpipe.config.formats import DEFAULT_QUANTIZED
from trtpipe.config.paths import folder_of, path_of, path_or_none
from trtpipe.errors import InputError
from trtpipe.pipeline.pipeline import opened, stages_named
from trtpipe.pipeline.publish import check_writable, publish_file, write_files
from trtpipe.pipeline.tuner import BEFORE, Tuner
from trtpipe.progress import NullProgress
from trtpipe.quantization.sensitivity import Sensitivity
from trtpipe.quantization.tuning_report import Budget, Tuning
from trtpipe.stages.sensitivity import MeasureSensitivity
from trtpipe.summary import Summarized, Summary

if TYPE_CHECKING:
    from collections.abc import Collection

    from typing_extensions import Unpack

    from trtpipe.api.arguments import DataLike, SourceLike
    from trtpipe.api.results import BuildResult
    from trtpipe.config.job import Job, Role
    from trtpipe.config.paths import PathLike
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.recipe import CalibrationRecipe


@takes(ModelArguments)
def sensitivity(
    source: SourceLike,
    out: PathLike | None = None,
    *,
    samples: int = 64,
    half: bool = False,
    **request: Unpack[ModelArguments],
) -> Sensitivity:
    """Quantization sensitivity: the output noise that each group of layers makes when it alone is quantized.

    It needs no labels.

    Args:
        source: as ``build`` takes it.
        out: where ``sensitivity.json`` goes; a folder or a file. It stays in the store anyway.
        samples: calibration feeds to judge by, evenly spread.
        half: whether float16 is tried as well.
        precision: ``int8`` (default), ``fp8`` or ``best``.

    Raises:
        InputError: the precision has no choice, there is no data, or an argument is wrong; the message names it.
        StageError: no node of the model can be lowered.

    Example:
        >>> found = trtpipe.sensitivity("model.onnx", calib_data="photos.npz")
        >>> [group.name for group in found.ranked]  # the most sensitive group first
        ['matmul_4', 'matmul_0', 'matmul_2']
    """
    where = path_or_none(out, "out")
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise InputError(f"samples: {samples!r} is no number of feeds", "give a whole number of 1 or more")
    with requested(source, engines=False, usual=DEFAULT_QUANTIZED, **request) as job:
        refuse_other_precisions(job)
        if where is not None:
            check_writable(folder_of(where, JSON))
        found: list[Sensitivity] = []

        def publish(result: BuildResult) -> Path | None:
            artifact = result.artifacts[-1]
            found.append(Sensitivity.read(artifact.path))
            return None if where is None else publish_file(artifact, where, JSON)

        stages = (*stages_named(*BEFORE), MeasureSensitivity(samples, half=half))
        run_published(job, stages, {}, publish, request.get("progress"))
    return found[0]


@dataclass(frozen=True, repr=False)
class TuneResult(Summarized):
    """What tuning found.

    Attributes:
        tuning: the layers to keep, the metric, and how it was found.
        profile: the deployment profile with the layers kept.
        recipe: the calibration recipe, with the best method.
        files: what was written: the profile, the report, and the recipe.
    """

    tuning: Tuning
    profile: DeploymentProfile
    recipe: CalibrationRecipe
    files: tuple[Path, ...]

    @property
    def summary(self) -> Summary:
        """Whether the budget is met, and the layers that are kept."""
        found = self.tuning
        word = "budget met" if found.met else "budget not met"
        values = f"{found.tuned.metric} {found.tuned.value:.4f}, of the model {found.reference.value:.4f}"
        kept = f"{len(found.nodes)} nodes kept in higher precision"
        rows = tuple((name,) for name in found.groups)
        return Summary(f"{word}: {values}; {kept}", ("first node of a group that is kept",), rows)


@takes(ModelArguments)
def tune(
    source: SourceLike,
    budget: Budget,
    out: PathLike,
    *,
    seconds: float | None = None,
    recalibrate: bool = True,
    eval_data: DataLike | None = None,
    **request: Unpack[ModelArguments],
) -> TuneResult:
    """Find the smallest set of layers to keep in higher precision that holds ``budget``, as a profile for ``build``.

    Ways to calibrate, with SmoothQuant and bias correction, are compared without labels, the best of them on the
    metric; then the quantization sensitivity of every group of layers is measured, and the metric decides. It is
    evaluated a dozen times at most. Everything is stored: a run that was interrupted, or whose time was up, goes on
    where it was.

    Args:
        source: as ``build`` takes it.
        out: the profile to write, ``.toml``.
        seconds: time for the evaluations; ``None`` for as much as they take.
        recalibrate: whether another way to calibrate than the recipe's may be chosen.
        eval_data: labeled data for the metric; the metric itself is the recipe's.
        precision: ``int8`` (default), ``fp8`` or ``best``.

    Raises:
        InputError: the precision has no choice; there is no metric, or no data for it.
        StageError: no node of the model can be lowered.

    Example:
        >>> budget = trtpipe.Budget(max_drop=0.005)
        >>> trtpipe.tune("model.onnx", budget, "tuned.toml", recipe="calib.toml").tuning.met
        True
    """
    where = path_of(out, "out")
    if not isinstance(budget, Budget):
        raise InputError(f"budget: {budget!r} is no Budget", "give trtpipe.Budget(max_drop=0.005)")
    with requested(source, eval_data=eval_data, engines=False, usual=DEFAULT_QUANTIZED, **request) as job:
        refuse_other_precisions(job)
        if job.recipe.evaluation is None:
            raise InputError("tuning needs a metric", "add --eval-data DATA with labels, or --metric case.py:evaluate")
        if where.suffix != ".toml":
            raise InputError(f"{where}: tuning writes a profile", "give a file that ends in .toml")
        budget = budget.of(job.recipe.evaluation)
        if budget.max_drop is not None and float(budget.max_drop) < 0:
            raise InputError(f"max_drop {budget.max_drop}: a budget is not negative", "give a budget such as 0.5%")
        check_writable(where.parent)
        listener = request.get("progress") or NullProgress()
        with opened(job, listener) as pipeline:
            found = Tuner(job, pipeline, budget, seconds, recalibrate, listener).run()
        result = TuneResult(found.tuning, found.profile, found.recipe, ())
        return replace(result, files=_write(result, where, job.feeds))


def _write(result: TuneResult, out: Path, held: Collection[Role]) -> tuple[Path, ...]:
    """The profile, the report, and the recipe: what was tuned depends on all of its data and methods.

    Args:
        held: the data that the caller holds: no file can name it.
    """
    texts = {
        out: profile_toml(result.profile),
        out.with_suffix(".json"): result.tuning.to_file() + "\n",
        out.with_suffix(".calib.toml"): recipe_toml(result.recipe, held),
    }
    write_files(texts, named=(out,))
    return tuple(texts)


def refuse_other_precisions(job: Job) -> None:
    """Complain early where there is nothing to choose."""
    refuse_missing(job)
    if not job.profile.precision.quantized:
        raise InputError(
            f"{job.profile.precision} has nothing to choose layer by layer",
            "add --int8 (or --fp8, where the GPU has it)",
        )
    refuse_without_data(job)
