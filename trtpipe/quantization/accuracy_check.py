"""Whether a mixed-precision graph is as accurate as one quantized wherever it may be, on calibration data."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from trtpipe.config.formats import FP32
from trtpipe.passes.graph_pass import GraphPass, run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.quantization.apply_corrections import WritePlan
from trtpipe.quantization.output_gate import OutputGate
from trtpipe.quantization.output_noise import OutputNoise
from trtpipe.quantization.range_search import surely_less
from trtpipe.reference.emulation import EmulateHalf
from trtpipe.reference.reference_outputs import exact_outputs, opened, run_every

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    import onnx_ir as ir

    from trtpipe.artifact import Feed
    from trtpipe.config.stage_settings import EngineSearchSettings
    from trtpipe.data.sample import Dataset
    from trtpipe.quantization.mac_count import CountedGraph
    from trtpipe.quantization.plan import QuantizationPlan

_EMULATION: tuple[GraphPass, ...] = (InferTypes(), EmulateHalf())
#: dB that a graph may be noisier, about what float16 adds to INT8; and standard errors over the feeds.
MARGIN, _SIGMAS = 1.0, 2.0
#: Feeds to compare on, and bytes they may take.
_FEEDS, _FEED_BYTES = 16, 32 << 20


class AccuracyCheck:
    """Compares lowered graphs with the graph quantized by the whole plan, float32 elsewhere, products of attention too.

    Args:
        graph: the graph that was planned.
        plan: all that may be quantized, with ranges and corrections.
        write: lowers a copy of the graph by a plan.
        dataset: the calibration data.
        workdir: graphs lie here while they are compared.
        settings: with the tolerance of verification.
    """

    def __init__(
        self,
        graph: CountedGraph,
        plan: QuantizationPlan,
        write: Callable[[QuantizationPlan], ir.Model],
        dataset: Dataset,
        workdir: Path,
        settings: EngineSearchSettings,
    ) -> None:
        self._graph, self._write, self._dataset, self._workdir = graph, write, dataset, workdir
        self._tolerance, self._precision = settings.tolerance, settings.precision
        self._baseline = replace(plan, scales=FP32).keep(dict.fromkeys(plan.attention, "float32 in the comparison"))

    def __call__(self, plan: QuantizationPlan) -> bool:
        """Whether the graph lowered by ``plan`` is not noisier by more than ``MARGIN``, and than chance; and within
        the tolerance of verification if the other one is, or no further beyond it than by that margin.
        """
        if not plan.points or not self._reference[1].informative:
            return True
        (allowed, most), (noise, used) = self._allowed, self._measured(lambda: self._write(plan))
        return not surely_less(allowed, noise, MARGIN, _SIGMAS) and used <= max(most * 10 ** (MARGIN / 10), 1.0)

    @cached_property
    def _reference(self) -> tuple[list[Feed], OutputNoise, OutputGate]:
        """Samples; what measures the noise of what a graph answers to them, and whether it is within tolerance."""
        feeds, expected = exact_outputs(
            self._graph.path, self._dataset, _FEEDS, _FEED_BYTES, self._workdir, self._graph.runtime,
            tolerant=True, logits=False,
        )  # fmt: skip
        names = tuple(expected[0]) if expected else ()
        gate = OutputGate(self._tolerance, self._precision, expected, names)
        return feeds, OutputNoise(expected), gate

    @cached_property
    def _allowed(self) -> tuple[np.ndarray, float]:
        def quantized() -> ir.Model:
            model = self._graph.load()
            run_passes(model, [WritePlan(self._baseline)])
            return model

        return self._measured(quantized)

    def _measured(self, write: Callable[[], ir.Model]) -> tuple[np.ndarray, float]:
        """With 16-bit storage emulated: float64[feeds], noise over signal at the outputs in dB; the share of the
        tolerance that they use.
        """

        def emulated() -> ir.Model:
            model = write()
            run_passes(model, _EMULATION)
            return model

        with opened(emulated(), self._workdir, self._graph.runtime) as runner:
            feeds, noise, gate = self._reference
            trial = gate.begin()
            return noise.decibels(trial.passing(run_every(runner, feeds, {}))), trial.used
