"""What is shown of an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.config.units import format_bytes, format_seconds
from trtpipe.views.blocks import Block, Facts, facts, notes, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trtpipe.backends.engine_file import PlanHeader
    from trtpipe.config.profile import OptimizationProfile
    from trtpipe.engine.record import EngineRecord
    from trtpipe.engine.report import EngineReport, EngineTensor


def plan(found: PlanHeader, obstacles: Sequence[str]) -> Facts:
    """What an engine's header says."""
    targets = "the header does not say" if found.targets is None else ", ".join(found.targets) or "none"
    weights = "" if found.weight_bytes is None else f", {format_bytes(found.weight_bytes)} of weights"
    more = ", and GPUs yet to come" if found.and_later else ""
    fits = [("does not run here", reason) for reason in obstacles] or [("runs here", "as far as its header tells")]
    return facts([("built by", f"{found.flavor} {found.version}{weights}"), ("targets", targets + more), *fits])


def engine(found: EngineRecord, limit: int | None) -> Iterator[Block]:
    """What the builder said of an engine, layer by layer."""
    precisions = ", ".join(f"{count} {name}" for name, count in found.precisions.items())
    yield facts(
        [
            ("engine", f"{found.flavor} {found.version} for {found.target}"),
            *((("built from", f"graph {found.digests['lowered'][:12]}"),) if "lowered" in found.digests else ()),
            *_options(found),
            ("inputs", "\n".join(map(str, found.io.inputs))),
            ("outputs", "\n".join(map(str, found.io.outputs))),
            *_profiles(found.profiles),
            ("layers", "unknown" if found.layers is None else f"{found.layers}: {precisions}"),
            ("activations", "unknown" if found.activation_bytes is None else format_bytes(found.activation_bytes)),
            ("built in", format_seconds(found.build_seconds)),
            *(("warning", warning) for warning in found.warnings),
            *notes(found.notes),
        ]
    )
    if found.report is not None:
        yield from _layers(found.report, limit)


def _profiles(profiles: Sequence[OptimizationProfile]) -> Iterator[tuple[str, str]]:
    for number, profile in enumerate(profiles):
        yield (
            f"shapes {number}" if len(profiles) > 1 else "shapes",
            "\n".join(
                f"{name}: {' to '.join('x'.join(map(str, dims)) for dims in (shape.min, shape.max))}"
                f", best at {'x'.join(map(str, shape.opt))}"
                for name, shape in profile.items()
            ),
        )


def _options(found: EngineRecord) -> Iterator[tuple[str, str]]:
    """What the builder was asked for beyond its defaults."""
    asked = {} if found.options is None else found.options.model_dump(mode="json", exclude_defaults=True)
    if asked:
        yield "options", ", ".join(f"{name} {value}" for name, value in asked.items())


def _layers(report: EngineReport, limit: int | None) -> Iterator[Block]:
    yield facts([(f"from the {report.source}", report.summary)])
    headers = ("layer", "kind", "reads", "constants", "writes", "bytes written", "ONNX nodes")
    rows = [
        (
            layer.name,
            layer.kind,
            _types(layer.inputs),
            _types(layer.constants),
            _types(layer.outputs),
            format_bytes(sum(tensor.bytes(report.free) for tensor in layer.outputs)),
            ", ".join(layer.nodes),
        )
        for layer in report.kernels
    ]
    yield table(headers, rows, right=("bytes written",), limit=limit)


def _types(tensors: Sequence[EngineTensor]) -> str:
    return " ".join(dict.fromkeys(tensor.type for tensor in tensors))
