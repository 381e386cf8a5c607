"""Whether a mixed-precision graph is as accurate as one quantized wherever it may be, on calibration data."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from trtpipe.config.formats import FP32
from trtpipe.passes.graph_pass import GraphPass, run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.quantization.apply_corrections import WritePlan
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
    """

    def __init__(
        self,
        graph: CountedGraph,
        plan: QuantizationPlan,
        write: Callable[[QuantizationPlan], ir.Model],
        dataset: Dataset,
        workdir: Path,
    ) -> None:
        self._graph, self._write, self._dataset, self._workdir = graph, write, dataset, workdir
        self._baseline = replace(plan, scales=FP32).keep(dict.fromkeys(plan.attention, "float32 in the comparison"))

    def __call__(self, plan: QuantizationPlan) -> bool:
        """Whether the graph lowered by ``plan`` is not noisier by more than ``MARGIN``, and than chance."""
        if not plan.points or not self._reference[1].informative:
            return True
        return not surely_less(self._allowed, self._decibels(self._write(plan)), MARGIN, _SIGMAS)

    @cached_property
    def _reference(self) -> tuple[list[Feed], OutputNoise]:
        """Samples, and what measures the noise of what a graph answers to them."""
        feeds, expected = exact_outputs(
            self._graph.path, self._dataset, _FEEDS, _FEED_BYTES, self._workdir, self._graph.runtime,
            tolerant=True, logits=False,
        )  # fmt: skip
        return feeds, OutputNoise(expected)

    @cached_property
    def _allowed(self) -> np.ndarray:
        model = self._graph.load()
        run_passes(model, [WritePlan(self._baseline)])
        return self._decibels(model)

    def _decibels(self, model: ir.Model) -> np.ndarray:
        """float64[feeds]: noise over signal at the outputs, with 16-bit storage emulated."""
        run_passes(model, _EMULATION)
        with opened(model, self._workdir, self._graph.runtime) as runner:
            feeds, noise = self._reference
            return noise.decibels(run_every(runner, feeds, {}))
