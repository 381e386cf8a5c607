"""The graphs on which corrections are tried: the float32 graph with its inner means, and quantized ones."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.backends.base import load_backend
from trtpipe.reference.reference_outputs import run_known

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import onnx_ir as ir

    from trtpipe.artifact import Feed
    from trtpipe.backends.base import OpenRunner
    from trtpipe.calibration.corrections import Corrections
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import QuantizationSettings
    from trtpipe.quantization.output_noise import OutputNoise
    from trtpipe.quantization.smooth_quant import SmoothGroup


class Bench:
    """Builds and runs the graphs of one model with given ranges; files live in ``workdir`` meanwhile.

    Attributes:
        groups: activations that can be evened out; only for integers, because a floating-point type needs none of it.
        outputs: names of the outputs to compare: those of the model, or what saturating operators make them from.
        quantizes: whether anything is quantized at all.
    """

    def __init__(
        self, settings: QuantizationSettings, simplified: Path, ranges: Ranges, workdir: Path, runtime: Settings
    ) -> None:
        from trtpipe.passes.logits import show_logits
        from trtpipe.quantization.bias_correction import correctable
        from trtpipe.quantization.plan import place
        from trtpipe.quantization.smooth_quant import smooth_groups

        self.ranges = ranges
        self.precision = settings.precision.quantized_format
        self._settings, self._simplified, self._workdir, self._runtime = settings, simplified, workdir, runtime
        model = self._load()
        placement = place(model, settings.keep)
        usable = {name for name, found in ranges.tensors.items() if found.amax}
        self.groups: dict[str, SmoothGroup] = {
            group.name: group
            for group in (smooth_groups(model, placement) if self.precision.kind == "integer" else ())
            if group.name in usable
        }
        self.quantizes = any(set(point.tensors) <= usable for point in placement.points)
        rounded = {
            str(point.node.outputs[0].name) for point in placement.points if set(point.tensors) <= usable
        }  # the others stay high: nothing shifts their means but what comes from before
        self._correctable = {name: n for name, n in correctable(model, placement).items() if name in rounded}
        show_logits(model)
        self.outputs = tuple(str(value.name) for value in model.graph.outputs)

    @contextmanager
    def exact(self) -> Iterator[OpenRunner]:
        """The float32 graph that also gives the activations of ``groups``."""
        from trtpipe.passes.expose import expose_too
        from trtpipe.passes.logits import show_logits

        model = self._load()
        show_logits(model)
        expose_too(model, [name for name in self.groups if name not in self.outputs])
        with self._opened(model) as runner:
            yield runner

    def noise(self, corrections: Corrections, feeds: list[Feed], reference: OutputNoise) -> np.ndarray:
        """float64[feeds]: noise over signal in dB of the graph quantized with ``corrections``."""
        from trtpipe.passes.logits import show_logits

        model = self._quantized(corrections)
        show_logits(model)
        with self._opened(model) as runner:
            return np.array([reference.decibels(index, run_known(runner, feed)) for index, feed in enumerate(feeds)])

    def wanted_corrections(self, corrections: Corrections, feeds: list[Feed]) -> dict[str, np.ndarray]:
        """float64[feeds, channels] of every node: what makes the means of the quantized graph the exact ones."""
        from trtpipe.quantization.bias_correction import correct_means

        expected = self._exact_means(corrections, feeds)
        model = self._quantized(corrections)
        names = correct_means(model, self._correctable)
        added: dict[str, list[np.ndarray]] = {node: [] for node in names}
        with self._opened(model) as runner:
            single = {
                spec.name: [size if isinstance(size, int) else 1 for size in spec.shape or ()] for spec in runner.inputs
            }
            for feed, means in zip(feeds, expected, strict=True):
                given = {each.expected: _some(means[node], single[each.expected]) for node, each in names.items()}
                found = run_known(runner, {**feed, **given})
                for node, each in added.items():
                    each.append(found[names[node].added])
        return {node: channel_means(each, self._correctable[node]) for node, each in added.items()}

    def _exact_means(self, corrections: Corrections, feeds: list[Feed]) -> list[Feed]:
        """Of every feed: node's output -> means. Smoothing moves factors over nodes, so they are those behind it."""
        from trtpipe.quantization.apply_corrections import apply_corrections
        from trtpipe.quantization.bias_correction import measure_means

        model = self._load()
        apply_corrections(model, self.ranges, corrections, self._settings.keep)
        names = measure_means(model, self._correctable)
        with self._opened(model) as runner:
            runs = (run_known(runner, feed) for feed in feeds)
            return [{node: found[mean] for node, mean in names.items()} for found in runs]

    @property
    def corrects(self) -> bool:
        """Whether there are biases to correct."""
        return bool(self._correctable)

    def _load(self) -> ir.Model:
        from trtpipe.passes.clean_up import load_clean

        return load_clean(self._simplified)

    def _quantized(self, corrections: Corrections) -> ir.Model:
        from trtpipe.passes.graph_pass import run_passes
        from trtpipe.quantization.apply_corrections import apply_corrections
        from trtpipe.quantization.qdq import InsertQDQ

        keep = self._settings.keep
        model = self._load()
        amax = apply_corrections(model, self.ranges, corrections, keep)
        run_passes(model, [InsertQDQ(self.precision, amax, keep, self._settings.weights)])
        return model

    @contextmanager
    def _opened(self, model: ir.Model) -> Iterator[OpenRunner]:
        from trtpipe.preflight.onnx_io import save_model

        path = self._workdir / "correction.onnx"
        written = save_model(model, path)
        try:
            with load_backend("onnxruntime").open(path, self._runtime) as runner:
                yield runner
        finally:
            for name in written:
                (self._workdir / name).unlink(missing_ok=True)


class Maxima:
    """The largest magnitude of every channel of some activations."""

    def __init__(self, groups: Mapping[str, SmoothGroup]) -> None:
        self.seen = {name: np.zeros(group.channels, np.float32) for name, group in groups.items()}
        self._axes = {name: group.axis for name, group in groups.items()}

    def update(self, found: Feed) -> None:
        """Take in one run."""
        for name, axis in self._axes.items():
            rows = np.moveaxis(np.abs(found[name]), axis, 0) if found[name].size else None
            if rows is not None:
                largest = rows.reshape(rows.shape[0], -1).max(axis=1)
                self.seen[name] = np.maximum(self.seen[name], largest)


def along(vector: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """``vector`` shaped to spread along ``axis`` of an array of ``rank`` axes."""
    return vector.reshape([-1 if index == axis % rank else 1 for index in range(rank)])


def channel_means(found: list[np.ndarray], channels: int) -> np.ndarray:
    """float64[feeds, channels] of float32[samples, channels, 1...] each; NaN for feeds that gave nothing."""
    return np.stack(
        [
            each.astype(np.float64).reshape(-1, channels).mean(axis=0) if each.size else np.full(channels, np.nan)
            for each in found
        ]
    )


def _some(means: np.ndarray, shape: list[int]) -> np.ndarray:
    """``means``, or zeros of ``shape`` where the branch was not taken: nobody reads them there."""
    return means if means.size else np.zeros(shape, np.float32)
