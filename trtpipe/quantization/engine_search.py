"""``best``: which nodes are worth quantizing, by building engines and comparing what they cost.

A handful of builds: everything in 16 bits; all points quantized, in each style; the cheapest of these without the nodes
of one pattern (residual additions, pools, products of attention, ...), pattern by pattern; then without the nodes that
cost more quantized than in 16 bits, until nothing changes. Nodes that share a kernel are taken out together. Where the
nodes that are left saved too little among more of them, no engine is built for them alone: with fewer neighbors in 8
bits they need more kernels that quantize, not less.

One graph serves all targets, so each candidate is built for each of them, and what counts is its cost relative to 16
bits, the mean over the targets. The cheapest wins that saves enough, costs none of them more than 16 bits, and is
accurate enough; so the answer is never worse than 16 bits by this measure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.backends.base import EngineRequest, load_backend
from trtpipe.config.profile import DeploymentProfile, ShapeRange
from trtpipe.config.stage_settings import asked_of_builder
from trtpipe.config.target import find_target
from trtpipe.digest import sha256_file
from trtpipe.engine.record import EngineTrial
from trtpipe.engine.report import EngineReport
from trtpipe.errors import BuildError, Cancelled, OutOfMemory, OutOfTime, WorkerError
from trtpipe.quantization.engine_cost import costs_by_node, engine_cost
from trtpipe.reference.reference_outputs import forget

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx_ir as ir

    from trtpipe.config.build_request import Shapes
    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import EngineSearchSettings
    from trtpipe.config.target import Target
    from trtpipe.progress import Progress
    from trtpipe.quantization.plan import QuantizationPlan

#: Ways to write the same arithmetic into a graph: each weight with a scale for each channel; or convolutions with one
#: scale for their weight, and the channels' own behind them.
SCALES_INSIDE, SCALES_BEHIND = "scales in the weights", "scales behind convolutions"
STYLES = (SCALES_INSIDE, SCALES_BEHIND)
#: A node on its own is taken in only if 8 bits cost less than this share of 16: between nodes in 16 bits it needs
#: kernels of its own that quantize, which only a build with just those nodes shows.
_SHARES = (1.0, 0.75, 0.6)
_ROUNDS = 3
#: 8 bits cost accuracy, and the estimate is rough: they must save at least this share of the cost of 16 bits.
LEAST_GAIN = 0.05
#: What differs between two rules of one kind: names of tensors.
_QUOTED = re.compile(r"'[^']*'")


@dataclass(frozen=True)
class Candidate:
    """Which nodes are quantized, and how that is written."""

    nodes: frozenset[str]
    style: str = SCALES_INSIDE


_HALF = Candidate(frozenset())


#: Target -> what is in the engine built for it.
Reports: TypeAlias = Mapping[str, EngineReport]
#: Builds a candidate's engines and says what is in them: the very same reports for the same graph, ``None`` where one
#: cannot be built.
Build: TypeAlias = Callable[[Candidate], "Reports | None"]


def search(
    nodes: Mapping[str, str], build: Build, accepts: Callable[[Candidate], bool] = lambda candidate: True
) -> tuple[Candidate | None, tuple[EngineTrial, ...]]:
    """The cheapest candidate and every trial made; ``None`` if no engine could be built.

    Args:
        nodes: those that may be quantized -> the pattern each belongs to.
        build: called with a few candidates, never twice with the same.
        accepts: whether a candidate is accurate enough; asked of the cheapest first, until one is.
    """
    found = _Search(build)
    found.attempt(_HALF)
    for style in STYLES if nodes else ():
        found.attempt(Candidate(frozenset(nodes), style))
    if _HALF in found.tried and found.lowered:
        for pattern in sorted(set(nodes.values())):
            whole = found.cheapest
            rest = frozenset(node for node in whole.nodes if nodes[node] != pattern)
            if rest:
                found.attempt(Candidate(rest, whole.style))
        whole = found.cheapest
        for share in _SHARES:
            found.attempt(found.fewer(whole, share), whole)
        for _ in range(_ROUNDS):
            whole = found.cheapest
            if not found.attempt(found.fewer(whole, 1.0), whole):
                break
    return found.best(accepts), tuple(found.trials())


class _Search:
    """What was built so far."""

    def __init__(self, build: Build) -> None:
        self.tried: dict[Candidate, Reports] = {}
        self._build = build

    @property
    def lowered(self) -> list[Candidate]:
        """Those with quantized nodes."""
        return [candidate for candidate in self.tried if candidate.nodes]

    @property
    def cheapest(self) -> Candidate:
        """Of those with quantized nodes."""
        return min(self.lowered, key=self._rank)

    def best(self, accepts: Callable[[Candidate], bool]) -> Candidate | None:
        """The cheapest of all that are worth their accuracy, and have it."""
        if _HALF not in self.tried:
            return next(filter(accepts, sorted(self.tried, key=self._rank)), None)
        worth = [
            candidate
            for candidate in self.lowered
            if self._cost(candidate) <= 1 - LEAST_GAIN and max(self._costs(candidate)) <= 1
        ]
        return next(filter(accepts, sorted(worth, key=self._rank)), _HALF)

    def attempt(self, candidate: Candidate, whole: Candidate | None = None) -> bool:
        """Whether its engines are new, and could be built: the same graph again is no other candidate.

        Args:
            whole: was built, and has all its nodes; nothing is built where its engines promise too little of them.
        """
        known = candidate in self.tried or (not candidate.nodes and self.tried)
        poor = whole is not None and self._promise(candidate, whole) < LEAST_GAIN
        reports = None if known or poor else self._build(candidate)
        if reports is None or any(reports is known for known in self.tried.values()):
            return False
        self.tried[candidate] = reports
        return True

    def _promise(self, candidate: Candidate, whole: Candidate) -> float:
        """What the nodes of ``candidate`` that save something do save among those of ``whole``, of the cost of 16 bits;
        the mean over the targets.
        """
        gains = []
        for target, report in self.tried[_HALF].items():
            half, quantized = (
                costs_by_node([each], whole.nodes) for each in (report, self.tried[whole][target])
            )  # fmt: skip
            saved = sum(max(half[node] - quantized[node], 0.0) for node in candidate.nodes)
            gains.append(saved / max(engine_cost(report), 1.0))
        return sum(gains) / len(gains)

    def fewer(self, candidate: Candidate, share: float) -> Candidate:
        """The nodes whose kernels cost less than ``share`` quantized, taken by groups whose products share a kernel."""
        nodes, before, after = candidate.nodes, self.tried[_HALF], self.tried[candidate]
        groups: dict[str, set[str]] = {node: {node} for node in sorted(nodes)}
        for report in (*before.values(), *after.values()):
            for layer in report.kernels:
                together = [node for node in layer.nodes if node in groups and layer.is_conv_gemm]
                merged: set[str] = set().union(*(groups[node] for node in together))
                groups |= dict.fromkeys(merged, merged)
        half, quantized = costs_by_node(before.values(), nodes), costs_by_node(after.values(), nodes)
        kept = (
            node
            for node, group in groups.items()
            if sum(quantized[each] for each in group) < share * sum(half[each] for each in group)
        )
        return Candidate(frozenset(kept), candidate.style)

    def trials(self) -> Iterable[EngineTrial]:
        """One an engine."""
        for candidate, reports in self.tried.items():
            for target, report in reports.items():
                yield EngineTrial(
                    target=target,
                    style=candidate.style if candidate.nodes else "",
                    nodes=len(candidate.nodes),
                    kernels=len(report.kernels),
                    activation_bytes=report.bytes_written + report.bytes_read,
                    weight_bytes=report.constant_bytes,
                    cost=engine_cost(report),
                )

    def _rank(self, candidate: Candidate) -> tuple[float, int]:
        return self._cost(candidate), len(candidate.nodes)

    def _cost(self, candidate: Candidate) -> float:
        costs = self._costs(candidate)
        return sum(costs) / len(costs)

    def _costs(self, candidate: Candidate) -> list[float]:
        """For each target, relative to 16 bits; in bytes where these could not be built."""
        costs = {target: engine_cost(report) for target, report in self.tried[candidate].items()}
        if _HALF not in self.tried:
            return list(costs.values())
        half = {target: engine_cost(report) for target, report in self.tried[_HALF].items()}
        return [cost / half[target] if half[target] else 1.0 for target, cost in costs.items()]


@dataclass(frozen=True)
class EngineChoice:
    """What was found.

    Attributes:
        plan: the cheapest that is accurate enough.
        trials: what was built to find it.
        note: the result in words.
    """

    plan: QuantizationPlan
    trials: tuple[EngineTrial, ...] = ()
    note: str = ""


def choose(
    settings: EngineSearchSettings,
    plan: QuantizationPlan,
    inputs: Sequence[ir.Value],
    write: Callable[[QuantizationPlan], ir.Model],
    accepts: Callable[[QuantizationPlan], bool],
    workdir: Path,
    plugins: tuple[Path, ...],
    runtime: Settings,
    progress: Progress,
) -> EngineChoice:
    """The plan that costs least on the targets of ``settings``, at the typical shapes, and is accurate enough.

    Args:
        plan: all that may be quantized.
        inputs: of the graph.
        write: lowers a copy of the graph by a plan.
        accepts: whether a plan is accurate enough.
        workdir: graphs and engines lie here while they are compared.
        plugins: plug-in libraries of the builder.
    """
    form, half = plan.format, plan.scales
    inaccurate = f"less accurate than {form} everywhere, so it stays in {half.storage}"
    if not settings.targets:
        reason = f"{settings.backend} builds are not compared" if settings.backend else "no target is named"
        if accepts(plan):
            return EngineChoice(plan, note=f"{reason}: every node that may computes in {form}")
        return EngineChoice(plan.keep_all_but((), inaccurate), note=f"{reason}: the quantized graph is {inaccurate}")
    open_dims = [value.name for value in inputs if not _known(value, settings.shapes)]
    if open_dims or not plan.points:
        reason = f"input {open_dims[0]!r} has no typical shape" if open_dims else f"no node can compute in {form}"
        return EngineChoice(plan, note=f"engines were not compared: {reason}")
    where = ", ".join(settings.targets)

    def chosen(candidate: Candidate) -> QuantizationPlan:
        reason = f"costs less in {half.storage} than in {form} on {where}"
        return replace(plan.keep_all_but(candidate.nodes, reason), split_scales=candidate.style == SCALES_BEHIND)

    builds = _Builds(settings, lambda candidate: write(chosen(candidate)), workdir, plugins, runtime, progress)
    nodes = {point.node: _QUOTED.sub("...", point.rule) for point in plan.points}
    asked: list[bool] = []

    def accurate(candidate: Candidate) -> bool:
        asked.append(accepts(chosen(candidate)))
        return asked[-1]

    candidate, trials = search(nodes, builds, accurate)
    note = _note(candidate, trials, len(nodes), settings.targets, builds.failure, plan)
    if False in asked:
        note += f"; not taken, as less accurate than {form} everywhere: {asked.count(False)} cheaper candidates"
    return EngineChoice(plan if candidate is None else chosen(candidate), trials, note)


class _Builds:
    """Builds one engine a graph and target: candidates that give the same graph share them.

    ``failure`` says why the first of those that could not be built was not.
    """

    def __init__(
        self,
        settings: EngineSearchSettings,
        write: Callable[[Candidate], ir.Model],
        workdir: Path,
        plugins: tuple[Path, ...],
        runtime: Settings,
        progress: Progress,
    ) -> None:
        shapes = {name: ShapeRange(min=dims, opt=dims, max=dims) for name, dims in settings.shapes.items()}
        self._profile = DeploymentProfile(
            precision=settings.precision,
            shapes=(shapes,) if shapes else (),
            build=asked_of_builder(settings.build, plugins, runtime),
        )
        self._settings = settings
        self._runtime = runtime
        self._targets = [find_target(name) for name in settings.targets]
        self._write = write
        self._workdir = workdir
        self._progress = progress
        self._known: dict[str, Reports | None] = {}
        self.failure = ""

    def __call__(self, candidate: Candidate) -> Reports | None:
        from trtpipe.preflight.onnx_io import save_model

        words = f"{len(candidate.nodes)} quantized nodes"
        self._progress.advance(f"comparing engines: {words}", 0, None)
        graph = self._workdir / "trial.onnx"
        model = self._write(candidate)
        _freeze(model, self._settings.shapes)
        files = [graph.with_name(name) for name in save_model(model, graph)]
        del model  # the builder reads the file
        forget(graph)
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
            request = EngineRequest(graph, self._profile, (target,), plan, self._runtime)
            record = backend.build(request, self._progress)
        except (OutOfTime, OutOfMemory, Cancelled):
            raise  # a limit of this machine may not choose what is quantized
        except (BuildError, WorkerError) as error:
            self._failed(words, error.message)
            return None
        finally:
            plan.unlink(missing_ok=True)
        return record.report

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
    candidate: Candidate | None,
    trials: tuple[EngineTrial, ...],
    nodes: int,
    targets: tuple[str, ...],
    failure: str,
    plan: QuantizationPlan,
) -> str:
    where, why = ", ".join(targets), f": {failure}" if failure else ""
    form, rest = plan.format, plan.scales.storage
    half = {trial.target: trial for trial in trials if not trial.nodes}
    if candidate is None or not half:
        return f"engines could not be compared: too few of them could be built for {where}{why}"
    if len(half) == len(trials):
        return f"no engine with {form} could be built for {where}, all stays in {rest}{why}"
    gains = "; ".join(_gain(half[target], _shown(candidate, trials, target), rest) for target in targets)
    asked = f"(at least {LEAST_GAIN:.0%} is asked for{', the mean of all targets' * (len(targets) > 1)})"
    if not candidate.nodes:
        return f"{form} is not profitable on {where}, all stays in {rest}: estimated to save {asked} {gains}"
    return (
        f"{form} is profitable on {where} for {len(candidate.nodes)} of {nodes} nodes, {candidate.style}: "
        f"estimated to save {asked} {gains}"
    )


def _shown(candidate: Candidate, trials: tuple[EngineTrial, ...], target: str) -> EngineTrial:
    """The engine that was chosen; the cheapest quantized one where none was."""
    quantized = [trial for trial in trials if trial.target == target and trial.nodes]
    chosen = [trial for trial in quantized if (trial.nodes, trial.style) == (len(candidate.nodes), candidate.style)]
    return min(chosen or quantized, key=lambda trial: trial.cost)


def _gain(half: EngineTrial, quantized: EngineTrial, rest: str) -> str:
    gain = 1 - quantized.cost / max(half.cost, 1.0)
    return (
        f"{gain:.0%} on {half.target}: {quantized.kernels} kernels and {_megabytes(quantized)} moved, "
        f"{half.kernels} and {_megabytes(half)} in {rest}"
    )


def _megabytes(trial: EngineTrial) -> str:
    return f"{(trial.activation_bytes + trial.weight_bytes) / 1e6:.1f} MB"
