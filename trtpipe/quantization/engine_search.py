"""``best``: which nodes compute in 8 bits, by building engines where the back-end does so quickly and says what is in
them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.backends.base import load_backend
from trtpipe.config.formats import is_quantized
from trtpipe.config.profile import DeploymentProfile, ShapeRange
from trtpipe.config.stage_settings import asked_of_builder
from trtpipe.config.target import find_target
from trtpipe.digest import sha256_file
from trtpipe.errors import BuildError, WorkerError
from trtpipe.quantization.search import LEAST_GAIN, Placement, Reports, Trial, search

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import EngineSearchSettings, Shapes
    from trtpipe.config.target import Target
    from trtpipe.engine.report import EngineReport
    from trtpipe.passes.decisions import NodeDecision
    from trtpipe.progress import Progress

#: What differs between two reasons of one kind: names of tensors.
_QUOTED = re.compile(r"'[^']*'")
#: A fresh copy of the graph, lowered with a placement (``None``: every node that may), and what was decided.
LowerTo: TypeAlias = "Callable[[Placement | None], tuple[ir.Model, tuple[NodeDecision, ...]]]"


@dataclass(frozen=True)
class Choice:
    """What was found.

    Attributes:
        placement: the cheapest; ``None``: every node that may computes in 8 bits.
        trials: what was built to find it.
        note: the result in words.
        targets: the GPUs that were built for.
        first: what was decided for every node when all that may were lowered to 8 bits.
    """

    placement: Placement | None = None
    trials: tuple[Trial, ...] = ()
    note: str = ""
    targets: tuple[str, ...] = ()
    first: tuple[NodeDecision, ...] = ()

    def explained(self, decisions: tuple[NodeDecision, ...]) -> tuple[NodeDecision, ...]:
        """The final decisions, each with the reason that holds: what 8 bits cost, or what was said before that."""
        if self.placement is None:
            return decisions
        before = {decision.node: decision for decision in self.first}
        return tuple(self._explained(decision, before.get(decision.node)) for decision in decisions)

    def _explained(self, decision: NodeDecision, before: NodeDecision | None) -> NodeDecision:
        assert self.placement is not None
        if before is None or decision.node in self.placement.nodes:
            return decision
        if not is_quantized(before.precision):
            return before if before.precision == decision.precision else decision
        reason = f"costs less in {decision.precision} than in {before.precision} on {', '.join(self.targets)}"
        return decision.model_copy(update={"reason": reason})


def choose(
    settings: EngineSearchSettings,
    lower_to: LowerTo,
    workdir: Path,
    plugins: tuple[Path, ...],
    runtime: Settings,
    progress: Progress,
) -> Choice:
    """The placement that costs least on the targets of ``settings``, at the typical shapes.

    Args:
        lower_to: makes the graph for a placement.
        workdir: graphs and engines lie here while they are compared.
        plugins: plug-in libraries of the builder.
    """
    if not settings.targets:
        reason = f"{settings.backend} builds are not compared" if settings.backend else "no target is named"
        return Choice(note=f"{reason}: every node that may computes in int8, by NVIDIA's placement rules")
    model, decisions = lower_to(None)
    decisions = lower_to(Placement(frozenset(each.node for each in decisions)))[1]  # products of attention too
    nodes = {each.node: _QUOTED.sub("...", each.reason) for each in decisions if is_quantized(each.precision)}
    open_dims = [value.name for value in model.graph.inputs if not _known(value, settings.shapes)]
    if open_dims or not nodes:
        reason = f"input {open_dims[0]!r} has no typical shape" if open_dims else "no node can compute in int8"
        return Choice(note=f"placements were not compared: {reason}")
    builds = _Builds(settings, lower_to, workdir, plugins, runtime, progress)
    placement, trials = search(nodes, builds)
    note = _note(placement, trials, len(nodes), settings.targets, builds.failure)
    return Choice(placement, trials, note, settings.targets, decisions)


class _Builds:
    """Builds one engine a graph and target: placements that give the same graph share them.

    ``failure`` says why the first of those that could not be built was not.
    """

    def __init__(
        self,
        settings: EngineSearchSettings,
        lower_to: LowerTo,
        workdir: Path,
        plugins: tuple[Path, ...],
        runtime: Settings,
        progress: Progress,
    ) -> None:
        shapes = {name: ShapeRange(min=dims, opt=dims, max=dims) for name, dims in settings.shapes.items()}
        self._profile = DeploymentProfile(
            precision="best",
            shapes=(shapes,) if shapes else (),
            build=asked_of_builder(settings.build, plugins, runtime),
        )
        self._settings = settings
        self._runtime = runtime
        self._targets = [find_target(name) for name in settings.targets]
        self._lower_to = lower_to
        self._workdir = workdir
        self._progress = progress
        self._known: dict[str, Reports | None] = {}
        self.failure = ""

    def __call__(self, placement: Placement) -> Reports | None:
        from trtpipe.preflight.onnx_io import save_model

        words = f"{len(placement.nodes)} nodes in int8"
        self._progress.advance(f"comparing placements: {words}", 0, None)
        model, _ = self._lower_to(placement)
        _freeze(model, self._settings.shapes)
        graph = self._workdir / "trial.onnx"
        files = [graph.with_name(name) for name in save_model(model, graph)]
        try:
            digest = " ".join(map(sha256_file, files))
            if digest not in self._known:
                self._known[digest] = self._reports(graph, words)
            return self._known[digest]
        finally:
            for path in files:
                path.unlink(missing_ok=True)

    def _reports(self, graph: Path, words: str) -> Reports | None:
        reports: dict[str, EngineReport] = {}
        for target in self._targets:
            report = self._build(graph, target, f"{words} for {target.name}")
            if report is None:
                return None
            reports[target.name] = report
        return reports

    def _build(self, graph: Path, target: Target, words: str) -> EngineReport | None:
        backend, plan = load_backend(self._settings.backend), graph.with_suffix(".plan")
        try:
            if refusal := backend.refuses(graph, self._profile, target):
                self._failed(words, refusal.reason)
                return None
            facts = backend.build(graph, self._profile, target, plan, self._runtime, self._progress)
        except (BuildError, WorkerError) as error:
            self._failed(words, error.message)
            return None
        finally:
            plan.unlink(missing_ok=True)
        return facts.report

    def _failed(self, words: str, reason: str) -> None:
        self.failure = self.failure or reason
        self._progress.note(f"not compared: {words}: {reason}")


def _known(value: ir.Value, shapes: Shapes) -> bool:
    static = value.shape is not None and all(isinstance(dim, int) for dim in value.shape.dims)
    return static or value.name in shapes


def _freeze(model: ir.Model, shapes: Shapes) -> None:
    """Static inputs of typical size, so that every dimension in the builder's report is known."""
    import onnx_ir as ir

    for value in model.graph.inputs:
        if value.name in shapes and value.shape is not None and not value.shape.is_static():
            value.shape = ir.Shape(shapes[value.name][: len(value.shape)])


def _note(
    placement: Placement | None, trials: tuple[Trial, ...], nodes: int, targets: tuple[str, ...], failure: str
) -> str:
    where, why = ", ".join(targets), f": {failure}" if failure else ""
    high = {trial.target: trial for trial in trials if not trial.nodes}
    if placement is None or not high:
        return f"placements could not be compared: too few of their engines could be built for {where}{why}"
    if len(high) == len(trials):
        return f"no engine with int8 could be built for {where}, all stays in float16{why}"
    gains = "; ".join(_gain(high[target], _shown(placement, trials, target)) for target in targets)
    asked = f"(at least {LEAST_GAIN:.0%} is asked for{', the mean of all targets' * (len(targets) > 1)})"
    if not placement.nodes:
        return f"int8 does not pay on {where}, all stays in float16: estimated to save {asked} {gains}"
    return (
        f"int8 pays on {where} for {len(placement.nodes)} of {nodes} nodes, {placement.style}: "
        f"estimated to save {asked} {gains}"
    )


def _shown(placement: Placement, trials: tuple[Trial, ...], target: str) -> Trial:
    """The engine that was chosen; the cheapest with 8 bits where none was."""
    lowered = [trial for trial in trials if trial.target == target and trial.nodes]
    chosen = [trial for trial in lowered if (trial.nodes, trial.style) == (len(placement.nodes), placement.style)]
    return min(chosen or lowered, key=lambda trial: trial.cost)


def _gain(high: Trial, low: Trial) -> str:
    gain = 1 - low.cost / max(high.cost, 1.0)
    return (
        f"{gain:.0%} on {high.target}: {low.kernels} kernels and {_megabytes(low)} moved, {high.kernels} and "
        f"{_megabytes(high)} in float16"
    )


def _megabytes(trial: Trial) -> str:
    return f"{(trial.activation_bytes + trial.weight_bytes) / 1e6:.1f} MB"
