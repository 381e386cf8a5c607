"""Whether a mixed-precision graph is as accurate as one quantized wherever it may be, on calibration data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.backends.base import load_backend
from trtpipe.config.formats import FP32
from trtpipe.quantization.apply_corrections import write_plan
from trtpipe.quantization.output_noise import OutputNoise
from trtpipe.quantization.range_search import surely_less
from trtpipe.reference.reference_outputs import exact_outputs, run_every

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import onnx_ir as ir

    from trtpipe.data.sample import Dataset
    from trtpipe.quantization.mac_count import CountedGraph
    from trtpipe.quantization.plan import QuantizationPlan

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
        self._graph, self._write, self._workdir = graph, write, workdir
        self._baseline = replace(plan, scales=FP32).keep(dict.fromkeys(plan.attention, "float32 in the comparison"))
        self._feeds, expected = exact_outputs(
            graph.path, dataset, _FEEDS, _FEED_BYTES, workdir, graph.runtime, tolerant=True, logits=False
        )
        self._noise = OutputNoise(expected)
        self._allowed: np.ndarray | None = None

    def __call__(self, plan: QuantizationPlan) -> bool:
        """Whether the graph lowered by ``plan`` is not noisier by more than ``MARGIN``, and than chance."""
        if not plan.points or not self._noise.informative:
            return True
        if self._allowed is None:
            model = self._graph.load()
            write_plan(model, self._baseline)
            self._allowed = self._decibels(model)
        return not surely_less(self._allowed, self._decibels(self._write(plan)), MARGIN, _SIGMAS)

    def _decibels(self, model: ir.Model) -> np.ndarray:
        """float64[feeds]: noise over signal at the outputs, with 16-bit storage emulated."""
        from trtpipe.passes.graph_pass import run_passes
        from trtpipe.passes.infer_types import InferTypes
        from trtpipe.preflight.onnx_io import save_model
        from trtpipe.reference.emulation import EmulateHalf

        run_passes(model, [InferTypes(), EmulateHalf()])
        path = self._workdir / "compared.onnx"
        names = save_model(model, path)
        try:
            with load_backend("onnxruntime").open(path, self._graph.runtime) as runner:
                results = run_every(runner, self._feeds, {})
                return np.array([self._noise.decibels(index, found) for index, found in enumerate(results)])
        finally:
            for name in names:
                (self._workdir / name).unlink(missing_ok=True)
