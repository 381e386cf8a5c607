"""The part of finish.py that judges outputs and describes times, in the words of trtpipe's own records.

Figures are those of ``trtpipe.accuracy.comparison`` and ``trtpipe.latency.measuring``; a test holds them together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trtpipe.delivery.finish.common import Failed, Feed, Record

#: Rounding of float32, relative to a value; what counts as stable, in percent; windows of a series.
ROUNDING, STABLE_SPREAD, STABLE_COV, WINDOWS = 2.0**-22, 10.0, 2.5, 10


def widened(bits: np.ndarray) -> np.ndarray:
    """The values of a 16-bit format that is the upper half of float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def judge_outputs(
    found: Sequence[Feed], wanted: Sequence[Feed], tolerances: dict[str, Record], *, real: bool
) -> list[Record]:
    """One record for every output of the reference."""
    return [
        judge_output(name, [each[name] for each in found], [each[name] for each in wanted], tolerances[name], real)
        for name in wanted[0]
    ]


def judge_output(
    name: str, found: Sequence[np.ndarray], wanted: Sequence[np.ndarray], rule: Record, real: bool
) -> Record:
    """How far one output is from the reference, over all feeds, and whether that is within its tolerance."""
    for mine, theirs in zip(found, wanted):
        if mine.shape != theirs.shape:
            what = f"output {name!r} has shape {list(mine.shape)}, the reference's has {list(theirs.shape)}"
            raise Failed(3, what, "an output whose shape depends on the data cannot be compared")
    floats = wanted[0].dtype.kind not in "biu"
    if floats:
        pairs = [(mine.astype(np.float32), theirs.astype(np.float32)) for mine, theirs in zip(found, wanted)]
    else:
        pairs = [((a != b).astype(np.float32), np.zeros(b.shape, np.float32)) for a, b in zip(found, wanted)]
    mine = np.concatenate([pair[0].ravel() for pair in pairs]).astype(np.float64)
    theirs = np.concatenate([pair[1].ravel() for pair in pairs]).astype(np.float64)
    count = max(mine.size, 1)
    with np.errstate(all="ignore"):
        gaps = np.where(mine == theirs, 0.0, np.abs(mine - theirs))
        ratios = np.where(gaps == 0, 0.0, gaps / np.abs(theirs))
    noise, signal, size = float((gaps**2).sum()), float((theirs**2).sum()), np.abs(theirs)
    spread = Spread(pairs)
    about = bool(real and floats and spread.power > ROUNDING**2 * signal)
    worst = worst_place(pairs)
    out: Record = {
        "output": name,
        "max_abs": float(gaps.max()) if gaps.size else 0.0,
        "max_rel": float(ratios.max()) if gaps.size else 0.0,
        "mean_abs": float(gaps.mean()) if gaps.size else 0.0,
        "mean_rel": float(ratios.mean()) if gaps.size else 0.0,
        "median_abs": float(np.median(gaps)) if gaps.size else 0.0,
        "scale": float(size.mean()) if gaps.size else 0.0,
        "spread": math.sqrt(spread.power / count) if floats else 0.0,
        "about_mean": about,
        "cosine": cosine(mine, theirs, noise, spread, about) if floats else None,
        "agreement": None if floats else 1 - noise / count,
        "snr_db": decibel(spread.power if about else signal, noise),
        "worst_feed": worst[0],
        "worst_index": list(worst[1]),
        "tolerance": rule,
    }
    broken = broken_limits(out, rule, mine, theirs, gaps, spread, noise, signal)
    out.update(broken=broken, passed=not broken)
    return out


class Spread:
    """What the samples change in an output: its variation about its own mean over samples.

    Axis 0 counts samples; axes whose length changes from feed to feed are averaged over as well.
    """

    def __init__(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        self.power = self.sum = self.cross = self.largest = 0.0
        shapes = [theirs.shape for _, theirs in pairs]
        if not shapes or not all(shapes) or len({len(shape) for shape in shapes}) > 1:
            return
        varying = [axis for axis in range(len(shapes[0])) if axis == 0 or len({shape[axis] for shape in shapes}) > 1]
        axes = tuple(varying)
        values = [np.where(np.isfinite(theirs), theirs, 0.0).astype(np.float64) for _, theirs in pairs]
        with np.errstate(all="ignore"):
            errors = [np.where(a == b, 0.0, a.astype(np.float64) - b) for a, b in pairs]
            each = sum(float(np.prod([shape[axis] for axis in axes])) for shape in shapes)
            if each < 2 or not sum(value.size for value in values):
                return
            mean = sum(value.sum(axes, keepdims=True) for value in values) / each
            error = sum(value.sum(axes, keepdims=True) for value in errors) / each
            self.sum = float(sum(((value - mean) ** 2).sum() for value in values))
            self.cross = float(sum(((v - mean) * (e - error)).sum() for v, e in zip(values, errors)))
            self.largest = max(float(np.abs(value - mean).max()) for value in values if value.size)
        self.power = self.sum * each / (each - 1)


def cosine(mine: np.ndarray, theirs: np.ndarray, noise: float, spread: Spread, about: bool) -> float:
    """Of what departs from the mean in both, or of the values themselves."""
    if about:
        shared = spread.sum + spread.cross
        product = spread.sum * (shared + spread.cross + noise)
        return shared / math.sqrt(product) if product > 0 else math.nan
    if not noise:
        return 1.0
    with np.errstate(all="ignore"):
        norm = math.sqrt(float((theirs**2).sum())) * math.sqrt(float((mine**2).sum()))
        return float((mine * theirs).sum()) / norm if norm else 0.0


def decibel(signal: float, noise: float) -> float:
    """The ratio of two powers in dB."""
    if noise == 0:
        return math.inf
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return math.nan
    return 10 * math.log10(signal / noise) if signal else -math.inf


def broken_limits(
    out: Record, rule: Record, mine: np.ndarray, theirs: np.ndarray, gaps: np.ndarray, spread: Spread, noise: float,
    signal: float,
) -> list[str]:  # fmt: skip
    """The limits of the tolerance that do not hold."""

    def reaches(found: float, least: Any) -> bool:
        return least is None or found >= least

    if out["agreement"] is not None:
        return [] if reaches(out["agreement"], rule["min_agreement"]) else ["agreement"]
    broken = []
    atol, rtol, stat = rule["atol"] or 0.0, rule["rtol"] or 0.0, rule["stat"]
    errors = {"max": out["max_abs"], "mean": out["mean_abs"], "median": out["median_abs"]}
    if stat in errors:
        size = np.abs(theirs)
        size = size if size.size else np.zeros(1)
        whole = float({"max": size.max(), "mean": size.mean(), "median": np.median(size)}[stat])
        beside = (spread.largest if stat == "max" else out["spread"]) if out["about_mean"] else whole
        close = errors[stat] <= atol + rtol * beside + ROUNDING * whole
    else:
        with np.errstate(all="ignore"):
            close = bool(((gaps <= atol) | (gaps <= rtol * np.abs(theirs)) | (mine == theirs)).all())
    if math.isnan(out["max_abs"]) or not close:
        broken.append("difference")
    if math.isfinite(noise) and noise <= ROUNDING**2 * signal:
        return broken
    broken += [] if reaches(out["cosine"], rule["min_cosine"]) else ["cosine"]
    return broken + ([] if reaches(out["snr_db"], rule["min_snr_db"]) else ["snr"])


def worst_place(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[int, tuple[int, ...]]:
    """The feed, and the element in it, with the largest difference; NaN counts as larger than any number."""
    worst = -1.0
    place: tuple[int, tuple[int, ...]] = (0, ())
    for feed, (mine, theirs) in enumerate(pairs):
        if not theirs.size:
            continue
        with np.errstate(invalid="ignore"):
            gaps = np.where(mine == theirs, 0.0, np.abs(mine - theirs)).ravel()
        where = int(gaps.argmax())
        if not (math.isnan(worst) or gaps[where] <= worst):
            worst = float(gaps[where])
            place = (feed, tuple(int(i) for i in np.unravel_index(where, theirs.shape)))
    return place


def difference(label: str, out: Record) -> str:
    """Why an output is not within tolerance, in one line."""
    where = f"feed {out['worst_feed']}, element {out['worst_index']}"
    limit = out["tolerance"]
    if out["agreement"] is not None:
        return (
            f"{label}: output {out['output']!r} against lowered: exact match {out['agreement']:.2%} of values, "
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
