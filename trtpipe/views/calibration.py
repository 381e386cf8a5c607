"""What is shown of calibration: the data, the statistics, the ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.views.blocks import Block, facts, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.calibration.data_summary import DataSummary
    from trtpipe.calibration.ranges import Ranges, TensorRange
    from trtpipe.report.statistics import StatisticsSummary


def ranges(found: Ranges, limit: int | None) -> Iterator[Block]:
    """Every tensor's range, and the method that found it."""
    unseen = (("unseen", "\n".join(found.unseen)),) if found.unseen else ()
    refused = (("not quantizable", "\n".join(found.not_quantizable.values())),) if found.not_quantizable else ()
    data = data_summary(found.samples, found.data_summary)
    yield facts([("method", _method(found)), *data, *unseen, *refused, *_corrections(found)])
    rows = [
        (name, f"{each.amax:.6g}", _method(each), f"{each.minimum:.6g}", f"{each.maximum:.6g}", each.note)
        for name, each in found.tensors.items()
    ]
    yield table(("tensor", "amax", "method", "min", "max", ""), rows, right=("amax", "min", "max"), limit=limit)


def _corrections(found: Ranges) -> Iterator[tuple[str, str]]:
    """What was tried to lessen the output's error, and what it came to."""
    tried = [f"{trial.correction} {trial.noise:.1f} dB{' (taken)' * trial.taken}" for trial in found.corrections.trials]
    if tried:
        yield "corrections", "\n".join(tried)


def _method(found: Ranges | TensorRange) -> str:
    return found.method if found.percentile is None else f"{found.method} {found.percentile:g} %"


def statistics(found: StatisticsSummary, limit: int | None) -> Iterator[Block]:
    """The statistics of every tensor."""
    yield facts(data_summary(found.samples, found.data_summary))
    rows = [
        (name, str(each.count), f"{each.zeros:.1%}", f"{each.minimum:.6g}", f"{each.maximum:.6g}", str(each.nonfinite))
        for name, each in found.tensors.items()
    ]
    headers = ("tensor", "values", "zeros", "min", "max", "not finite")
    yield table(headers, rows, right=headers[1:], limit=limit)


def data_summary(samples: int, found: DataSummary | None) -> list[tuple[str, str]]:
    """The data that was used."""
    if found is None:
        return [("samples", f"{samples} of unknown origin")]
    spans = "\n".join(f"{name}: {i.minimum:.4g} to {i.maximum:.4g}" for name, i in found.inputs.items())
    return [
        ("samples", f"{samples} from {found.source}"),
        ("inputs", spans),
        *(("warning", warning) for warning in found.warnings),
    ]
