"""The public functions of calibration: from data, statistics or another tool's cache to ranges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtpipe.api.results import JSON, BuildResult, run_stages
from trtpipe.calibration.statistics_file import merge_statistics
from trtpipe.config.formats import DEFAULT_QUANTIZED
from trtpipe.config.os_errors import translate_os_errors
from trtpipe.errors import InputError
from trtpipe.pipeline.publish import check_writable, publish_file
from trtpipe.pipeline.run_state import artifact_from_file
from trtpipe.stages.calibrate import RANGES
from trtpipe.stages.observe import STATISTICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.calibration.trt_cache import CacheImport
    from trtpipe.config.job import Job
    from trtpipe.progress import Progress


def calibrate(job: Job, simplified: Path, out: Path, progress: Progress | None = None) -> BuildResult:
    """``simplified.onnx`` and the recipe's data -> ``ranges.json`` and ``statistics.npz``, in one pass.

    The statistics stay in the store: asking for another method later costs no new pass.
    """
    return run_stages(_eight_bit(job), ("observe", "calibrate"), {"simplified": simplified}, out, JSON, progress)


def ranges_from_statistics(
    job: Job, simplified: Path | None, statistics: Sequence[Path], out: Path, progress: Progress | None = None
) -> BuildResult:
    """``statistics.npz`` -> ``ranges.json``, without a pass over data; only ``auto`` and corrections look at samples.

    Args:
        simplified: the graph; only ``auto`` needs it, and corrections, for which samples are needed as well.
        statistics: one file, or those of several shards: they are merged, and the whole lies beside the ranges.

    Raises:
        InputError: a file is no statistics, or the shards do not belong together; see ``merge_statistics``.
    """

    def ranges_from(whole: Path) -> BuildResult:
        given = {"statistics": whole} if simplified is None else {"simplified": simplified, "statistics": whole}
        return run_stages(_eight_bit(job), ("calibrate",), given, out, JSON, progress)

    if simplified is None and job.recipe.method == "auto":
        raise InputError(
            "method auto judges by the model itself, and none was given", "name the model, or another method"
        )
    if simplified is None:  # corrections are tried on the model itself
        job = replace(job, recipe=job.recipe.model_copy(update={"corrections": "none"}))
    if len(statistics) == 1:
        return ranges_from(statistics[0])
    with TemporaryDirectory(prefix="trtpipe-") as folder:
        whole = Path(folder, STATISTICS)
        merge_statistics(statistics, whole)
        result = ranges_from(whole)
        publish_file(artifact_from_file("statistics", whole), _statistics_beside(out), (".npz",))
    return result


def _statistics_beside(out: Path) -> Path:
    """Where the statistics lie, if the ranges went to ``out``: a folder, or the name of a file."""
    return out.with_name(STATISTICS) if out.suffix in JSON and not out.is_dir() else out / STATISTICS


def import_trt_cache(cache: Path, simplified: Path, out: Path, keep: Sequence[str] = ()) -> CacheImport:
    """The scales of a calibration cache that TensorRT 8 to 10 wrote, as ``ranges.json`` for ``simplified.onnx``.

    Args:
        cache: the text file a calibrator wrote.
        simplified: the graph to lower; its tensor names must be those the cache was made with.
        out: a folder, or the file to write.
        keep: shell patterns of node names that stay in high precision.

    Returns:
        The ranges, and which tensors matched.

    Raises:
        InputError: no such cache (the message names the line), or it knows none of the graph's tensors.
        HostError: ``out`` cannot be written.
    """
    from trtpipe.calibration.trt_cache import apply_trt_cache, read_trt_cache
    from trtpipe.passes.clean_up import load_clean
    from trtpipe.stages.observe import observed_tensors

    path = out if out.suffix in JSON and not out.is_dir() else out / RANGES
    check_writable(path.parent)
    result = apply_trt_cache(read_trt_cache(cache), observed_tensors(load_clean(simplified), tuple(keep)))
    with translate_os_errors(path, f"write {path}", elsewhere="choose another output with -o"):
        path.parent.mkdir(parents=True, exist_ok=True)
        result.ranges.write(path)
    return result


def _eight_bit(job: Job) -> Job:
    """The job, for int8 where its precision needs no ranges."""
    if job.profile.precision.calibrated:
        return job
    return replace(job, profile=job.profile.model_copy(update={"precision": DEFAULT_QUANTIZED}))
