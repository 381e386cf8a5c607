"""How good are ranges? The quantised graph, with its scales as inputs, against the float32 graph on some samples."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.backends.base import load_backend
from trtpipe.errors import InputError
from trtpipe.profile import EIGHT_BIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from trtpipe.backends.base import Feed, Runner
    from trtpipe.calibration.sample import Dataset
    from trtpipe.calibration.statistics import Statistics
    from trtpipe.job import Job

#: Feeds to judge by, and bytes they may take.
FEEDS, FEED_BYTES = 32, 64 << 20
#: Noise below this share of the signal (-120 dB) is none.
_FLOOR = 1e-12
#: Share of the mean power over all feeds that every feed is taken to have.
_FAINT = 1e-3


class OutputJudge:
    """Compares the outputs of the quantised graph with those of the float32 graph.

    Args:
        quantised, exact: the two graphs with the same float outputs.
        feeds: the samples.
        scales: tensor -> input of the quantised graph that takes its scale.
        largest: largest value of the format.
        tolerant: leave out feeds on which the float32 graph fails or is not finite.

    Raises:
        InputError: the outputs say nothing, because they are all 0 or hold no floats.
    """

    def __init__(
        self,
        quantised: Runner,
        exact: Runner,
        feeds: list[Feed],
        scales: Mapping[str, str],
        largest: float,
        tolerant: bool = False,
    ) -> None:
        self._runner = quantised
        self._inputs = {spec.name for spec in quantised.inputs}
        self._scales = scales
        self._largest = np.float32(largest)
        wanted = {spec.name for spec in exact.inputs}
        self._feeds: list[Feed] = []
        self._expected: list[Feed] = []
        for feed in feeds:
            try:
                outputs = _floats(exact.infer({name: value for name, value in feed.items() if name in wanted}))
            except InputError:
                if not tolerant:
                    raise
                continue
            if not tolerant or all(np.isfinite(value).all() for value in outputs.values()):
                self._feeds.append(feed)
                self._expected.append(outputs)
        self._signal = _signal_powers(self._expected)
        if not self._signal:
            raise InputError(
                "method auto judges by the model's float outputs, and it has none that differ from 0",
                "choose another method, for example --method mse",
            )

    def __call__(self, amax: Mapping[str, float]) -> np.ndarray:
        """float64[feeds]: noise over signal power in dB, the mean over all outputs."""
        joint: dict[str, float] = {}
        for tensor, scale in self._scales.items():  # tensors that share a scale: the largest, as in lowering
            joint[scale] = max(amax[tensor], joint.get(scale, 0.0))
        scales = {scale: np.asarray(np.float32(limit) / self._largest) for scale, limit in joint.items()}
        return np.array([self._noise(index, feed, scales) for index, feed in enumerate(self._feeds)])

    def _noise(self, index: int, feed: Feed, scales: Feed) -> float:
        found = self._runner.infer({name: value for name, value in feed.items() if name in self._inputs} | scales)
        shares = [
            _power(found[name] - self._expected[index][name]) / signal[index] for name, signal in self._signal.items()
        ]
        return float(np.mean(10 * np.log10(np.maximum(shares, _FLOOR))))


@contextmanager
def judging(
    job: Job, simplified: Path, statistics: Statistics, dataset: Dataset, workdir: Path
) -> Iterator[OutputJudge]:
    """A judge for the job's placement, precision and weights; its graphs are in ``workdir`` meanwhile."""
    from trtpipe.calibration.spread import spread_feeds
    from trtpipe.onnxfile import load_model, save_model
    from trtpipe.passes.clean_up import clean_up
    from trtpipe.passes.switchable import make_switchable, show_logits
    from trtpipe.passes.weights import largest_value

    precision = EIGHT_BIT[job.profile.precision]
    exact, quantised = load_model(simplified), load_model(simplified)
    for model in (exact, quantised):  # the names that statistics go by are those of the plain form
        clean_up(model)
    amax = {name: tensor.largest for name, tensor in statistics.tensors.items() if tensor.largest}
    written: tuple[str, ...] = ()
    try:
        show_logits(exact)
        written += save_model(exact, workdir / "exact.onnx")
        scales = make_switchable(quantised, precision, amax, job.profile.keep, job.recipe.weights)
        show_logits(quantised)
        written += save_model(quantised, workdir / "quantised.onnx")
        del exact, quantised
        with ExitStack() as stack:
            onnx = load_backend("onnxruntime")
            yield OutputJudge(
                stack.enter_context(onnx.open(workdir / "quantised.onnx", job.settings)),
                stack.enter_context(onnx.open(workdir / "exact.onnx", job.settings)),
                spread_feeds(dataset, FEEDS, FEED_BYTES),
                scales,
                largest_value(precision),
                tolerant=job.recipe.data.skip_bad_samples > 0,
            )
    finally:
        for name in written:
            (workdir / name).unlink(missing_ok=True)


def _floats(outputs: Feed) -> Feed:
    return {name: value for name, value in outputs.items() if value.dtype.kind == "f"}


def _signal_powers(outputs: list[Feed]) -> dict[str, np.ndarray]:
    """Output -> float64[feeds], its power in every feed; a feed with next to none counts as one with little.

    Outputs that are 0 throughout, or not finite, say nothing and are left out.
    """
    powers = {name: np.array([_power(output[name]) for output in outputs]) for name in (outputs[0] if outputs else {})}
    return {
        name: np.maximum(power, _FAINT * power.mean()) for name, power in powers.items() if 0 < power.sum() < np.inf
    }


def _power(value: np.ndarray) -> float:
    return float(np.sum(np.square(value, dtype=np.float64)))
