"""The part of finish.py that judges outputs and describes times, in the words of trtpipe's own records.

Figures of outputs are computed by trtpipe's own module, which is a part of the file; those of times are those of
``trtpipe.latency.measuring``, and a test holds them together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trtpipe.accuracy.alignment import aligned, counted
from trtpipe.accuracy.output_metrics import OutputMetrics
from trtpipe.config.limits import OutputLimits
from trtpipe.delivery.finish.common import Failed, Feed, Record

#: What counts as stable, in percent; windows of a series.
STABLE_SPREAD, STABLE_COV, WINDOWS = 10.0, 2.5, 10


def widened(bits: np.ndarray) -> np.ndarray:
    """The values of a 16-bit format that is the upper half of float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def judge_outputs(
    model: Record, found: Sequence[Feed], wanted: Sequence[Feed], feeds: Sequence[Feed], *, real: bool
) -> list[Record]:
    """One record for every output of the reference: how far it is from that, over all feeds, and whether that is
    within its tolerance.
    """
    rules = {name: OutputLimits(**rule) for name, rule in model["tolerances"].items()}
    known: dict[str, OutputMetrics] = {}
    for number, (given, expected, feed) in enumerate(zip(found, wanted, feeds)):
        for name, value in expected.items():
            if given[name].shape != value.shape:
                what = f"output {name!r} has shape {list(given[name].shape)}, the reference's has {list(value.shape)}"
                raise Failed(3, what, "an output whose shape depends on the data cannot be compared")
        ordered = aligned(given, expected, model["unordered"])
        mine, theirs, counts = counted(ordered, expected, model["ignored"], feed)
        for name, value in theirs.items():
            is_float = value.dtype.kind not in "biu"
            metrics = known.setdefault(name, OutputMetrics(is_float=is_float, real=real))
            metrics.add_feed(mine[name], value, counts[name], rules[name], number)
    return [_record(name, metrics, rules[name]) for name, metrics in known.items()]


def _record(name: str, metrics: OutputMetrics, limits: OutputLimits) -> Record:
    broken = metrics.broken(limits)
    return {
        "output": name,
        "max_abs": metrics.max_abs,
        "max_rel": metrics.max_rel,
        "mean_abs": metrics.mean_abs,
        "mean_rel": metrics.rel_sum / metrics.count,
        "median_abs": metrics.median_sum / metrics.count,
        "scale": metrics.scale,
        "spread": metrics.spread,
        "about_mean": metrics.about_mean,
        "cosine": metrics.cosine,
        "agreement": metrics.agreement,
        "snr_db": metrics.snr_db,
        "worst_feed": metrics.worst.feed,
        "worst_index": list(metrics.worst.index),
        "tolerance": vars(limits),
        "broken": list(broken),
        "passed": not broken,
    }


def difference(label: str, out: Record) -> str:
    """Why an output is not within tolerance, in one line."""
    where = f"feed {out['worst_feed']}, element {out['worst_index']}"
    limit = out["tolerance"]
    if out["agreement"] is not None:
        aside = "" if out["mean_abs"] + out["agreement"] > 1 - 1e-6 else ", the most common one in both aside"
        return (
            f"{label}: output {out['output']!r} against lowered: exact match {out['agreement']:.2%} of values{aside}, "
            f"limit {limit['min_agreement'] or 0:.2%} (first difference: {where})"
        )
    words = {
        "difference": f"mean {out['mean_abs']:.3g}, max {out['max_abs']:.3g} ({where})",
        "cosine": f"cosine {out['cosine'] or 0:.4f}, limit {limit['min_cosine'] or 0:g}",
        "snr": f"SNR {out['snr_db']:.1f} dB, limit {limit['min_snr_db'] or 0:g} dB",
    }
    mean = f"the samples change it by {out['spread']:.3g} rms" if out["about_mean"] else f"mean {out['scale']:.3g}"
    found = "; ".join(words[name] for name in out["broken"])
    return f"{label}: output {out['output']!r} differs from lowered: {found} ({mean})"


def times(seconds: Sequence[float]) -> Record:
    """Distribution of a series, in milliseconds; percentiles are times that were measured, as trtexec's are."""
    ms = np.sort(np.asarray(seconds, np.float64)) * 1e3
    mean = float(ms.mean())
    at = [float(ms[max(math.ceil(percent / 100 * len(ms)) - 1, 0)]) for percent in (90, 95, 99)]
    return {
        "min": float(ms[0]), "max": float(ms[-1]), "mean": mean, "median": float(np.median(ms)),
        "p90": at[0], "p95": at[1], "p99": at[2], "cov": float(ms.std() / mean * 100) if mean else 0.0,
    }  # fmt: skip


def latency_record(
    queries: Sequence[tuple[float, float, float, float]], wall: float, feed: Feed, label: str, runner: str,
    warm_up: float,
) -> Record:  # fmt: skip
    """One measurement; a query is (enqueue, copies in, kernels, copies out) in seconds."""
    totals = [h2d + compute + d2h for _, h2d, compute, d2h in queries]
    parts = {name: times([query[index] for query in queries])
             for index, name in enumerate(("enqueue", "h2d", "gpu_compute", "d2h"))}  # fmt: skip
    blocks = np.array_split(np.asarray(totals) * 1e3, min(WINDOWS, len(totals)))
    medians = [float(np.median(block)) for block in blocks]
    middle = float(np.median(medians))
    spread = (max(medians) - min(medians)) / middle * 100 if middle else 0.0
    stable = spread <= STABLE_SPREAD and parts["gpu_compute"]["cov"] <= STABLE_COV
    return {
        **times(totals),
        "artifact": label,
        "runner": runner,
        "on_gpu": True,
        "shapes": {name: list(value.shape) for name, value in feed.items()},
        "data": "reference inputs",
        "warmup_seconds": warm_up,
        "iterations": len(queries),
        "throughput_qps": len(queries) / wall if wall else 0.0,
        "wall_seconds": wall,
        "parts": parts,
        "windows": medians,
        "spread": spread,
        "stable": stable,
        "notes": [] if stable else ["unstable: measure longer, on an idle machine with locked clocks"],
    }
