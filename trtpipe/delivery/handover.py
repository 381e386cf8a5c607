"""A hand-over: a package without plans, for a machine that builds the engine itself; and what that machine gives back.

The folder is a package whose ``finish.py`` builds, compares and measures (``trtpipe.delivery.finish``). What it writes
lies beside the package's own files: the plan, its record, ``parity.json``, ``latency.json`` and the verdict in
``finished.json``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trtpipe.accuracy.consistency import require_report
from trtpipe.accuracy.reports import ParityReport
from trtpipe.artifact import FileEntry
from trtpipe.backends.trtexec import command_line, flag_names, hardware_level
from trtpipe.config.formats import Precision
from trtpipe.config.profile import BuildSettings, DeploymentProfile, ShapeRange
from trtpipe.config.stage_settings import builder_options
from trtpipe.config.target import DLA
from trtpipe.delivery.assembly import Assembly, plan_of
from trtpipe.delivery.finish import source
from trtpipe.delivery.record import FINISHED, Range, StatedVerdict
from trtpipe.delivery.record import HANDOVER as JOB
from trtpipe.delivery.schema import load_object, read_record
from trtpipe.digest import sha256_bytes, sha256_json
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import InputError
from trtpipe.preflight.onnx_io import read_proto, without_meaningless_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.config.target import Target
    from trtpipe.delivery.reader import Package
    from trtpipe.delivery.record import Model, Tensor

SCRIPT, COMMAND = "finish.py", "trtexec.sh"
PARITY, LATENCY = "parity.json", "latency.json"
#: Of ``handover.json``, and of ``finished.json``.
SCHEMA, FINISHED_SCHEMA = 1, 2
_AGAIN = "run finish.py again, and copy its whole folder back"


@dataclass(frozen=True)
class Finished:
    """``finished.json``.

    Attributes:
        schema: of the file.
        plan: its name.
        sha256: of the plan.
        handover: sha256 of the ``handover.json`` that it was built from.
        created: when, in UTC (ISO 8601).
        machine: what kind of machine it was.
        verdict: on the engine.
        speed: in words.
    """

    schema: int
    plan: str
    sha256: str
    handover: str
    created: str
    machine: dict[str, str | int]
    verdict: StatedVerdict
    speed: str


@dataclass(frozen=True)
class TakenBack:
    """An engine that another machine built.

    Attributes:
        assembly: the package with it.
        engine: its record.
        job: what was asked for: ``handover.json``.
        created: when it was built, in UTC (ISO 8601).
        machine: what kind of machine that was.
    """

    assembly: Assembly
    engine: EngineRecord
    job: Mapping[str, Any]
    created: str
    machine: Mapping[str, str | int]


def hand_over(
    assembly: Assembly, target: Target, profile: DeploymentProfile, folder: Path, repository: str = ""
) -> Assembly:
    """The package that a machine with ``target`` finishes.

    Args:
        profile: its ``build`` is for the builder there; its shapes count where the package has no engine.
        folder: private; files are written there.
        repository: where ``finish.py`` puts a second copy of the plan, relative to its own folder; empty: nowhere.

    Raises:
        InputError: the package lacks what it takes, or the target cannot compute it.
    """
    model = assembly.model
    profiles, options = profiles_of(model, profile), builder_options(profile.build)
    _check(model, assembly, target, options)
    assert model.graph is not None
    files = {name: path for name, path in assembly.files.items() if name not in {plan.file for plan in model.plans}}
    renamed = without_meaningless_names(files[model.graph.file])
    if renamed is not None:
        files[model.graph.file] = folder / model.graph.file
        files[model.graph.file].write_bytes(renamed)
    lowered = [FileEntry.of(files[name], name).sha256 for name in (model.graph.file, *model.graph.data)]
    names = tuple(Path(name).name for name in profile.build.plugins) or tuple(
        {n: 0 for p in model.plans for n in p.plugins}
    )
    stated = options.model_copy(update={"plugins": names})
    plan = f"{target.name}.plan"
    ranges = [{name: ShapeRange(min=e.min, opt=e.opt, max=e.max) for name, e in each.items()} for each in profiles]
    support = target.tensorrt if stated.dla_core is None else DLA  # which is within what the target has
    job = {
        "schema": SCHEMA,
        "target": target.name,
        "capability": target.capability,
        "since": support.since,
        "gap": support.gap,
        "versions": str(support),
        "plan": plan,
        "lowered": sha256_json(lowered),
        "repository": repository,
        "profiles": [{name: each.to_dict() for name, each in profile.items()} for profile in ranges],
        "options": stated.to_dict(),
        "flags": [flag for _, flag in flag_names(stated)],
        "hardware_level": hardware_level(stated),
        "plugins": names,
    }
    (folder / JOB).write_text(json.dumps(job, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / SCRIPT).write_text(source(), encoding="utf-8")
    (folder / COMMAND).write_text(
        f"#!/bin/sh\n# The engine that finish.py builds, by trtexec.\n"
        f"{command_line(model.graph.file, plan, ranges, stated)}\n",
        encoding="utf-8",
    )
    files |= {name: folder / name for name in (JOB, SCRIPT, COMMAND)}
    return replace(assembly, model=replace(model, plans=(), notes=()), files=files)  # notes are about its engines


def profiles_of(model: Model, profile: DeploymentProfile) -> tuple[Mapping[str, Range], ...]:
    """The optimization profiles of the engine to build: those of the build's own engines, or else of its profile.

    Raises:
        InputError: shapes are free, and nothing says in which range.
    """
    for plan in model.plans:
        if plan.profiles:
            return plan.profiles
    free = {each.name: each for each in model.inputs if not _is_fixed(each)}
    found = tuple(
        {
            name: Range(each.min, each.opt, each.max)
            for name, each in shapes.items()
            if name in free
            or each.min != each.max  # of fixed inputs, only those whose values decide shapes have a range
        }
        for shapes in profile.shapes
    )
    for name, each in free.items():
        if not all(name in ranges for ranges in found or ({},)):
            raise InputError(
                f"{model.name}: {each} has free dimensions, and the package has no engine whose shapes could be taken",
                "package a build that has an engine for some target, or export the model with fixed shapes",
            )
    return found if any(found) else ()


def _is_fixed(tensor: Tensor) -> bool:
    return tensor.shape is not None and all(isinstance(dim, int) for dim in tensor.shape)


def _check(model: Model, assembly: Assembly, target: Target, options: BuildSettings) -> None:
    if model.graph is None:
        raise InputError(f"{model.name}: has no lowered graph to build from", "package a build that has one")
    precision = next((each for each in Precision if str(each) == model.precision), None)
    if precision is None or not target.computes(precision):
        raise InputError(
            f"{model.name}: {target} ({target.family}) does not compute in {model.precision}",
            f"build it in another precision: {target} has {', '.join(map(str, target.formats))}",
        )
    if options.dla_core is not None and not target.dla:
        raise InputError(f"dla_core {options.dla_core}: {target} ({target.family}) has no DLA", "leave dla_core out")
    if model.reference is None and not has_plugin_nodes(assembly):
        raise InputError(
            f"{model.name}: the package has no reference inputs, so nothing could be said of the engine built there",
            "make the package again from its build, with --samples DATA",
        )


def has_plugin_nodes(assembly: Assembly) -> bool:
    """Whether the lowered graph holds TensorRT plug-ins, which no CPU runs: then there are no reference outputs."""
    import onnx_ir as ir

    from trtpipe.passes.plugins import plugin_nodes

    graph = assembly.model.graph
    return graph is not None and bool(plugin_nodes(ir.serde.deserialize_model(read_proto(assembly.files[graph.file]))))


def is_handover(names: frozenset[str]) -> bool:
    """Whether a package is one, by its files."""
    return JOB in names


def taken_back(package: Package, assembly: Assembly) -> TakenBack:
    """The package of the engine that ``finish.py`` built: with the plan, and with the verdict on it.

    Args:
        assembly: the files of the hand-over.

    Raises:
        InputError: it was not finished yet, or files were edited or cut short since.
    """
    folder = package.path
    finished = _finished(package)
    name, verdict = finished.plan, finished.verdict
    if {name, f"{name}.json"} - package.names:
        raise InputError(f"{folder / name}: {FINISHED} speaks of it, and it is not there", _AGAIN)
    engine = EngineRecord.read(folder / f"{name}.json")
    entry = FileEntry.of(folder / name)
    if {entry.sha256} != {finished.sha256, engine.digests.get("plan")}:
        raise InputError(f"{folder / name}: not the plan that {FINISHED} is about: its digest differs", _AGAIN)
    job = load_object(package.read(JOB), folder / JOB)
    if engine.digests.get("lowered") != job.get("lowered"):
        raise InputError(f"{folder / name}: was built from another graph than this hand-over's", _AGAIN)
    _require_judged(folder, package.model, engine, verdict)
    own = {JOB, SCRIPT, COMMAND}
    files = {each: path for each, path in assembly.files.items() if each not in own}
    plan = plan_of(entry, engine)
    notes = (*assembly.model.notes, f"{name}: built on the machine it is for, by {engine.flavor} {engine.version}")
    if verdict.data == "none":
        verdict = replace(assembly.model.verdict, scope=f"{assembly.model.verdict.scope}; {verdict.scope}".strip("; "))
    model = replace(assembly.model, plans=(plan,), verdict=verdict, notes=notes)
    whole = Assembly(model, {**files, name: folder / name})
    return TakenBack(whole, engine, job, finished.created, finished.machine)


def _finished(package: Package) -> Finished:
    """What ``finish.py`` says of this very hand-over: one that is made anew lies beside what was built for another."""
    folder, path = package.path, package.path / FINISHED
    remedy = "run finish.py in it, on the machine it is for"
    if FINISHED not in package.names:
        raise InputError(f"{folder}: a hand-over that was not finished yet", remedy)
    content = load_object(path.read_bytes(), path)
    if content.get("schema") != FINISHED_SCHEMA:
        raise InputError(f"{path}: written by another version of finish.py", _AGAIN)
    finished = read_record(Finished, content, path)
    if finished.plan != Path(finished.plan).name:
        raise InputError(f"{path}: plan: {finished.plan!r:.60} is no name of a file", _AGAIN)
    if finished.handover != sha256_bytes(package.read(JOB)):
        raise InputError(f"{folder}: a hand-over that was not finished yet: {FINISHED} is of another one", remedy)
    return finished


def _require_judged(folder: Path, model: Model, engine: EngineRecord, verdict: StatedVerdict) -> None:
    """Raise InputError unless the verdict follows from the comparison beside it, and that is of this very hand-over."""
    label, reference = f"engine:{engine.target}", model.reference
    if verdict.data == "none" and verdict.outcome == "not judged":
        return
    report = ParityReport.read(folder / PARITY)
    require_report(str(folder / PARITY), report)
    outcome: Literal["passed", "failed", "not judged"] = "passed"
    if report.reasons or report.synthetic:
        outcome = "failed" if report.reasons else "not judged"
    judged = [each for comparison in report.comparisons for each in comparison.outputs]
    own = (
        report.digests == {label: engine.digests["plan"]}
        and reference is not None
        and report.synthetic == (reference.data == "random")
        and report.data_digest == model.file(reference.file).sha256
        and {each.output: each.tolerance.to_dict() for each in judged}
        == {name: asdict(limits) for name, limits in model.tolerances.items()}
    )
    if not own or (outcome, report.samples) != (verdict.outcome, verdict.samples):
        raise InputError(f"{folder / FINISHED}: verdict: does not follow from {PARITY}", _AGAIN)
