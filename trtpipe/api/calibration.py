"""The public functions of calibration: from data, statistics or another tool's cache to ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtpipe.api.paths import path_of, path_or_none
from trtpipe.api.request import requested
from trtpipe.api.results import JSON, BuildResult, run_stages
from trtpipe.calibration.statistics_file import merge_statistics
from trtpipe.config.formats import DEFAULT_QUANTIZED
from trtpipe.errors import InputError
from trtpipe.pipeline.publish import check_writable, publish_folder, write_file
from trtpipe.pipeline.run_state import artifact_from_file
from trtpipe.stages.calibrate import RANGES
from trtpipe.stages.observe import STATISTICS

if TYPE_CHECKING:
    from trtpipe.api.paths import PathLike
    from trtpipe.api.request import DataLike, PrecisionLike, ProfileLike, RecipeLike, ShapesLike
    from trtpipe.calibration.trt_cache import CacheImport
    from trtpipe.config.job import Job
    from trtpipe.config.settings import Settings
    from trtpipe.progress import Progress


def calibrate(
    simplified: PathLike,
    out: PathLike,
    *,
    calib_data: DataLike | None = None,
    precision: PrecisionLike | None = None,
    shapes: ShapesLike | None = None,
    keep: Sequence[str] | None = None,
    profile: ProfileLike | None = None,
    recipe: RecipeLike | None = None,
    settings: Settings | None = None,
    allow_random: bool = False,
    progress: Progress | None = None,
) -> BuildResult:
    """``simplified.onnx`` and calibration data -> ``ranges.json`` and ``statistics.npz``, in one pass over the data.

    The statistics are cached: another method needs no new pass over the data.

    Args:
        simplified: what ``simplify`` wrote.
        out: a folder, or the name of the ranges' file; the statistics lie beside it.
        precision: ``int8`` (default), ``fp8`` or ``best``.
        recipe: the method, and how samples become feeds.
        allow_random: whether seeded random data may stand in where none is given.

    Raises:
        InputError: a file or sample cannot be used, or there is no data.

    Example:
        >>> trtpipe.calibrate("simplified.onnx", "ranges.json", calib_data="photos.npz").out
        PosixPath('ranges.json')
    """
    with requested(
        calib_data=calib_data,
        precision=precision,
        shapes=shapes,
        keep=keep,
        profile=profile,
        recipe=recipe,
        settings=settings,
        allow_random=allow_random,
        engines=False,
        progress=progress,
    ) as job:
        given = {"simplified": path_of(simplified, "simplified")}
        return run_stages(_eight_bit(job), ("observe", "calibrate"), given, path_of(out, "out"), JSON, progress)


def ranges_from_statistics(
    statistics: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    simplified: PathLike | None = None,
    calib_data: DataLike | None = None,
    profile: ProfileLike | None = None,
    recipe: RecipeLike | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """``statistics.npz`` -> ``ranges.json``, without a pass over data; only ``auto`` and corrections run samples.

    Args:
        statistics: one file, or those of several shards: they are merged, and the whole lies beside the ranges.
        simplified: the graph; only ``auto`` needs it, and corrections, for which samples are needed as well.

    Raises:
        InputError: a file is no statistics, or the shards do not belong together; see ``merge_statistics``.

    Example:
        >>> trtpipe.ranges_from_statistics(["a/statistics.npz", "b/statistics.npz"], "ranges.json").out
        PosixPath('ranges.json')
    """
    several = statistics if isinstance(statistics, Sequence) and not isinstance(statistics, str) else [statistics]
    files = [path_of(path, "statistics") for path in several]
    where, graph = path_of(out, "out"), path_or_none(simplified, "simplified")
    with requested(
        calib_data=calib_data, profile=profile, recipe=recipe, settings=settings, engines=False, progress=progress
    ) as asked:
        if graph is None and asked.recipe.method == "auto":
            raise InputError(
                "method auto judges by the model itself, and none was given", "name the model, or another method"
            )
        job = asked
        if graph is None:  # corrections are tried on the model itself
            job = replace(asked, recipe=asked.recipe.model_copy(update={"corrections": "none"}))

        def ranges_from(whole: Path) -> BuildResult:
            given = {"statistics": whole} if graph is None else {"simplified": graph, "statistics": whole}
            return run_stages(_eight_bit(job), ("calibrate",), given, where, JSON, progress)

        if len(files) == 1:
            return ranges_from(files[0])
        with TemporaryDirectory(prefix="trtpipe-") as folder:
            whole = Path(folder, STATISTICS)
            merge_statistics(files, whole)
            result = ranges_from(whole)
            beside = _statistics_beside(where)
            publish_folder([artifact_from_file("statistics", whole)], beside.parent)
        return result


def _statistics_beside(out: Path) -> Path:
    """Where the statistics lie, if the ranges went to ``out``: a folder, or the name of a file."""
    return out.with_name(STATISTICS) if out.suffix in JSON and not out.is_dir() else out / STATISTICS


def import_trt_cache(cache: PathLike, simplified: PathLike, out: PathLike, keep: Sequence[str] = ()) -> CacheImport:
    """The scales of a calibration cache that TensorRT 8 to 10 wrote, as ``ranges.json`` for ``simplified.onnx``.

    Args:
        cache: the text file a calibrator wrote.
        simplified: the graph to lower; its tensor names must be those the cache was made with.
        out: a folder, or the file to write.
        keep: shell patterns of node names to keep in higher precision.

    Returns:
        The ranges, and which tensors matched.

    Raises:
        InputError: no such cache (the message names the line), or it knows none of the graph's tensors.
        HostError: ``out`` cannot be written.

    Example:
        >>> trtpipe.import_trt_cache("calibration.cache", "simplified.onnx", "imported.json").matched
        ('x',)
    """
    from trtpipe.calibration.trt_cache import apply_trt_cache, read_trt_cache
    from trtpipe.passes.clean_up import load_clean
    from trtpipe.stages.observe import observed_tensors

    given, graph, where = path_of(cache, "cache"), path_of(simplified, "simplified"), path_of(out, "out")
    path = where if where.suffix in JSON and not where.is_dir() else where / RANGES
    check_writable(path.parent)
    tensors = observed_tensors(load_clean(graph), tuple(keep))
    result = apply_trt_cache(read_trt_cache(given), tensors)
    write_file(path, result.ranges.to_json() + "\n", named=path == where)
    return result


def _eight_bit(job: Job) -> Job:
    """The job, for int8 where its precision needs no ranges."""
    if job.profile.precision.calibrated:
        return job
    return replace(job, profile=job.profile.model_copy(update={"precision": DEFAULT_QUANTIZED}))
