"""What another TensorRT makes of a build's lowered graph: the upgrade gate, and builds that refuse other versions."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import trtpipe
from trtpipe.api.arguments import check_arguments
from trtpipe.api.remedies import explained
from trtpipe.api.results import reported
from trtpipe.backends.base import EngineRequest, load_backend
from trtpipe.config.formats import FULL_PRECISION
from trtpipe.config.paths import path_of
from trtpipe.config.profile import BuildSettings, DeploymentProfile
from trtpipe.config.settings import Settings
from trtpipe.config.stage_settings import asked_of_builder
from trtpipe.config.target import find_target
from trtpipe.engine.record import EngineRecord
from trtpipe.engine.stored_weights import Constants, constants_of, stored_weights
from trtpipe.errors import HostError, InputError, StageError
from trtpipe.isolation.interpreter import Interpreter, interpreter_of, neighbors, own_interpreter
from trtpipe.regression.bundle import Build, entries, read_build
from trtpipe.regression.upgrade import Stored, UpgradeReport, builder_of, compare_engines, not_built
from trtpipe.report.manifest import Manifest
from trtpipe.stages.bundle import MANIFEST, toolchain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trtpipe.config.job import Job
    from trtpipe.config.paths import PathLike
    from trtpipe.progress import Progress
    from trtpipe.regression.gate import Finding


@explained
def check_upgrade(
    build: PathLike,
    pythons: Iterable[PathLike] = (),
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> UpgradeReport:
    """Build a build's lowered graph with other TensorRT versions, and compare the engines with its own, node by node.

    Nothing is executed: the builders' reports are compared. TensorRT-RTX needs no GPU for that.

    Args:
        build: the folder that ``build`` wrote, with its engines.
        pythons: environments with the other versions: interpreters (``.venv-1.6/bin/python``) or folders of
            environments. They need TensorRT alone, if their Python is of trtpipe's version. None: the one that trtpipe
            runs in, and those beside it, of which each version that is not the build's is taken once.

    Raises:
        InputError: no such build, it has no engine, or an environment is none.
        HostError: an environment lacks this TensorRT, or no other version was found.

    Example:
        >>> report = trtpipe.check_upgrade("out", ["/opt/rtx-1.6/bin/python"])  # doctest: +SKIP
        >>> report.passed, report.versions  # doctest: +SKIP
        (True, ('tensorrt-rtx 1.6.1.120',))
    """
    check_arguments({"settings": settings, "progress": progress})
    found, given = read_build(path_of(build, "build")), [path_of(each, "pythons") for each in pythons]
    engines = _engines(found)
    first = engines[0].record
    others = [_named(each, first.flavor) for each in given] if given else _found(first.flavor, first.version)
    rebuild = _Rebuild(
        found.manifest.backend, found.path("lowered"), first.flavor, settings or Settings.from_environment(), progress
    )
    findings = [finding for python in others for engine in engines for finding in rebuild.compared(engine, python)]
    return UpgradeReport(
        baseline=builder_of(first),
        build=found.folder.name,
        verdict=found.manifest.verdict,
        findings=tuple(findings),
        versions=tuple(dict.fromkeys(rebuild.version(python) for python in others)),
    )


def refuse_other_versions(job: Job, build: Path) -> None:
    """Refuse a job that other tools would do than those that ``build`` was made with.

    Args:
        build: the folder of that build, or its manifest.

    Raises:
        InputError: it is no build.
        HostError: versions differ, or the back-end's device; the message names each.
    """
    path = build / MANIFEST if build.is_dir() else build
    if not path.is_file():
        raise InputError(f"{build}: no bundle lies there", "give the folder that trtpipe build -o wrote")
    manifest = Manifest.read(path)
    wanted = {"trtpipe": manifest.trtpipe, "back-end": manifest.backend, **manifest.toolchain}
    here = {"trtpipe": trtpipe.__version__, "back-end": job.backend, **toolchain(job.backend, job.settings)}
    named = [
        f"{name}: {wanted.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in sorted(wanted.keys() | here.keys())
        if wanted.get(name) != here.get(name)
    ]
    if named:
        raise HostError(
            f"{build}: built with other tools: {'; '.join(named)}",
            "use the environment and the machine of that build, or build without --locked",
        )


@dataclass(frozen=True)
class _Engine:
    """An engine of a build."""

    record: EngineRecord
    plan: Path

    @property
    def targets(self) -> tuple[str, ...]:
        return self.record.targets or (self.record.target,)


def _engines(build: Build) -> list[_Engine]:
    """Every plan, once where targets share it.

    Raises:
        InputError: there is none that a graph was built to, or plug-ins that are not in the bundle were used.
    """
    found: dict[str, _Engine] = {}
    for label, entry in entries(build.manifest.artifacts).items():
        if label.startswith("engine:") and len(entry.files) > 1:
            plan = build.folder / entry.files[0].name
            engine = _Engine(EngineRecord.read(plan.with_name(f"{plan.name}.json")), plan)
            found.setdefault(entry.files[0].sha256, engine)
    lowered = entries(build.manifest.artifacts)["lowered"].digest
    for record in (engine.record for engine in found.values()):
        if record.digests.get("lowered") != lowered:
            raise InputError(
                f"{build.folder}: the engine for {record.target} was not built of the bundle's lowered graph",
                "build again; only engines of TensorRT's ONNX parser can be compared",
            )
        if record.plugins:
            raise InputError(
                f"{build.folder}: the engine for {record.target} needs plug-ins: {', '.join(record.plugins)}",
                "build with the other version, and compare the two builds with trtpipe diff",
            )
    if not found:
        raise InputError(f"{build.folder}: the bundle has no engine", "build with --target first")
    return list(found.values())


@dataclass(frozen=True)
class _Rebuild:
    """Builds the engines of one build again with other TensorRTs."""

    backend: str
    lowered: Path
    flavor: str
    settings: Settings
    progress: Progress | None

    @cached_property
    def constants(self) -> Constants:
        return constants_of(self.lowered)

    def version(self, python: Interpreter) -> str:
        """Of the TensorRT in an environment."""
        return f"{self.flavor} {python.packages[self.flavor]}"

    def compared(self, engine: _Engine, python: Interpreter) -> tuple[Finding, ...]:
        """An engine against the one that the TensorRT of ``python`` builds."""
        names, version = ", ".join(engine.targets), self.version(python)
        backend = load_backend(self.backend, elsewhere=True)
        with tempfile.TemporaryDirectory(prefix="trtpipe-upgrade-") as folder:
            plan = Path(folder, "engine.plan")
            try:
                with reported(f"compile {names} by {version}", self.progress) as listener:
                    new = backend.build(self._request(engine, plan, python), listener)
            except StageError as error:
                return (not_built(names, version, error.message),)
            before, now = (stored_weights(each, self.constants) for each in (engine.plan, plan))
        return compare_engines(engine.record, new, Stored(before, now, len(self.constants)))

    def _request(self, engine: _Engine, plan: Path, python: Interpreter) -> EngineRequest:
        options = asked_of_builder(engine.record.options or BuildSettings(), (), self.settings)
        profile = DeploymentProfile(precision=FULL_PRECISION, shapes=engine.record.profiles, build=options)
        return EngineRequest(
            self.lowered, profile, tuple(map(find_target, engine.targets)), plan, self.settings, python
        )


def _named(place: Path, flavor: str) -> Interpreter:
    python = interpreter_of(place, flavor)
    if not python.packages[flavor]:
        raise HostError(f"{place}: {flavor} is not installed there", f"{place}: pip install {flavor}, or leave it out")
    return python


def _found(flavor: str, own: str) -> list[Interpreter]:
    """One environment for every version but ``own``: that of this process first, then those beside it."""
    found: dict[str, Interpreter] = {}
    for python in _around(flavor):
        if python.packages[flavor] not in ("", own):
            found.setdefault(python.packages[flavor], python)
    if not found:
        raise HostError(
            f"no {flavor} but {own} was found in this environment or beside it",
            f"make one (python -m venv .venv-new; .venv-new/bin/pip install {flavor}) and name it with --python",
        )
    return list(found.values())


def _around(flavor: str) -> Iterator[Interpreter]:
    yield own_interpreter(flavor)
    for folder in neighbors(flavor):
        yield interpreter_of(folder, flavor)
