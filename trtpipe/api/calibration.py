"""The public functions of calibration: from data, statistics or another tool's cache to ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtpipe.api.arguments import CommonArguments, takes
from trtpipe.api.remedies import explained
from trtpipe.api.request import refuse_missing, refuse_without_data, requested
from trtpipe.api.results import JSON, BuildResult, run_stages, write_record
from trtpipe.calibration.statistics_file import merge_statistics
from trtpipe.config.formats import DEFAULT_QUANTIZED
from trtpipe.config.paths import folder_of, path_of, path_or_none
from trtpipe.errors import InputError
from trtpipe.pipeline.publish import check_writable, publish_folder
from trtpipe.pipeline.run_state import artifact_from_file
from trtpipe.stages.calibrate import RANGES
from trtpipe.stages.observe import STATISTICS

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from trtpipe.api.arguments import DataLike, PrecisionLike, ShapesLike
    from trtpipe.calibration.trt_cache import CacheImport
    from trtpipe.config.job import Job
    from trtpipe.config.paths import PathLike


@takes(CommonArguments)
def calibrate(
    simplified: PathLike,
    out: PathLike,
    *,
    calib_data: DataLike | None = None,
    precision: PrecisionLike | None = None,
    shapes: ShapesLike | None = None,
    keep: Sequence[str] | None = None,
    allow_random: bool = False,
    **common: Unpack[CommonArguments],
) -> BuildResult:
    """``simplified.onnx`` and calibration data -> ``ranges.json`` and ``statistics.npz``, in one pass over the data.

    The statistics are cached: another method needs no new pass over the data.

    Args:
        simplified: what ``simplify`` wrote.
        out: a folder, or the name of the ranges' file; the statistics lie beside it.
        precision: ``int8`` (default), ``fp8`` or ``best``.
        recipe: the method, and how samples become feeds.

    Raises:
        InputError: a file or sample cannot be used, or there is no data.

    Example:
        >>> trtpipe.calibrate("simplified.onnx", "ranges.json", calib_data="photos.npz").out
        PosixPath('ranges.json')
    """
    with requested(
        calib_data=calib_data, precision=precision, shapes=shapes, keep=keep, allow_random=allow_random,
        engines=False, **common,
    ) as job:  # fmt: skip
        quantized, where = _eight_bit(job), path_of(out, "out")
        given = {"simplified": path_of(simplified, "simplified")}
        refuse_missing(quantized)
        refuse_without_data(quantized, "--data")
        return run_stages(quantized, ["observe", "calibrate"], given, where, JSON, common.get("progress"))


@takes(CommonArguments)
def ranges_from_statistics(
    statistics: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    simplified: PathLike | None = None,
    calib_data: DataLike | None = None,
    **common: Unpack[CommonArguments],
) -> BuildResult:
    """``statistics.npz`` -> ``ranges.json``, without a pass over data; only ``auto`` and corrections run samples.

    Args:
        statistics: one file, or those of several shards: they are merged, and the whole lies beside the ranges.
        out: a folder, or the name of the ranges' file.
        simplified: the graph; only ``auto`` needs it, and corrections, for which samples are needed as well.
        calib_data: those samples.

    Raises:
        InputError: a file is no statistics, or the shards do not belong together; see ``merge_statistics``.

    Example:
        >>> trtpipe.ranges_from_statistics(["a/statistics.npz", "b/statistics.npz"], "ranges.json").out
        PosixPath('ranges.json')
    """
    several = statistics if isinstance(statistics, Sequence) and not isinstance(statistics, str) else [statistics]
    files = [path_of(path, "statistics") for path in several]
    where, graph = path_of(out, "out"), path_or_none(simplified, "simplified")
    with (
        requested(calib_data=calib_data, engines=False, **common) as asked,
        TemporaryDirectory(prefix="trtpipe-") as folder,
    ):
        job, given = _eight_bit(asked), {"statistics": files[0] if len(files) == 1 else Path(folder, STATISTICS)}
        if graph is not None:
            given["simplified"] = graph
        elif job.recipe.method == "auto":
            raise InputError(
                "method auto judges by the model itself, and none was given", "name the model, or another method"
            )
        else:  # corrections are tried on the model itself
            job = replace(job, recipe=job.recipe.model_copy(update={"corrections": "none"}))
        if len(files) != 1:
            merge_statistics(files, given["statistics"])
        result = run_stages(job, ["calibrate"], given, where, JSON, common.get("progress"))
        if len(files) != 1:
            publish_folder([artifact_from_file("statistics", given["statistics"])], folder_of(where, JSON))
        return result


@explained
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
    check_writable(folder_of(where, JSON))
    tensors = observed_tensors(load_clean(graph), tuple(keep))
    result = apply_trt_cache(read_trt_cache(given), tensors)
    write_record(result.ranges, where, RANGES)
    return result


def _eight_bit(job: Job) -> Job:
    """The job, for int8 where its precision needs no ranges."""
    if job.profile.precision.calibrated:
        return job
    return replace(job, profile=job.profile.model_copy(update={"precision": DEFAULT_QUANTIZED}))
