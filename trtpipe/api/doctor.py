"""What this machine can do, what is missing for the rest, and the command that installs it."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import trtpipe
from trtpipe.api.arguments import check_arguments
from trtpipe.artifact import PublicRecord, Record
from trtpipe.backends.base import load_backend, missing
from trtpipe.backends.choice import choose_backend
from trtpipe.backends.gpu import gpus, has_driver
from trtpipe.config.advisories import open_advisories
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.requirements import Requirement, requirements
from trtpipe.config.settings import Settings
from trtpipe.config.target import TARGETS
from trtpipe.config.toolchain import machine, version
from trtpipe.errors import HostError, TrtpipeError
from trtpipe.isolation.linux import machine_memory
from trtpipe.isolation.sandbox import landlock_version, protections
from trtpipe.isolation.worker import Report, call, limits_for
from trtpipe.progress import NullProgress
from trtpipe.store import ArtifactStore
from trtpipe.summary import Summarized, Summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.backends.gpu import Gpu
    from trtpipe.config.target import Target

_FLAVORS = ("tensorrt-rtx", "tensorrt")


class PackageState(Record):
    """One package.

    Attributes:
        extra: the extra of trtpipe that brings it; empty for the core.
        needed: the least version.
        installed: the version found; ``None`` if there is none.
        problem: why it cannot be used; empty if it can.
        install: the command that helps; empty if none is needed.
    """

    name: str
    extra: str
    needed: str
    installed: str | None
    problem: str
    install: str


class BackendState(Record):
    """One flavor of TensorRT: its version, ``None`` if it is not installed, and the command that installs it."""

    name: str
    version: str | None
    install: str


class GpuState(Record):
    """One GPU; ``memory`` is in bytes, ``None`` where it is the machine's."""

    name: str
    target: str
    driver: str
    memory: int | None


class CacheState(Record):
    """The cache folder, its free bytes, and why it cannot be used (empty if it can)."""

    path: str
    free: int
    problem: str


class StageState(Record):
    """Where a stage runs, or (``ready`` false) why it cannot."""

    stage: str
    ready: bool
    where: str


class TargetState(Record):
    """One target: what it is, and which flavors build for it on this machine.

    Attributes:
        names: products, as the command line takes them.
        dtypes: element types it computes in besides float32.
        backends: flavors that are installed here and can build for it.
        problem: why none can; empty where one does.
    """

    name: str
    family: str
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    dla: bool
    backends: tuple[str, ...]
    problem: str


class Diagnosis(Summarized, PublicRecord):
    """What ``diagnose`` found.

    Attributes:
        trtpipe: its version.
        machine: CPU, cores, memory, OS and Python.
        memory: bytes this process may hope for: less than the machine's inside a container.
        packages: those trtpipe's metadata names, core ones first.
        driver: whether the CUDA driver can be loaded.
        landlock: version of the kernel's Landlock, 0 where there is none.
        sandbox: what child processes that work on files from anyone have no access to: other ``files``, the
            ``network``, ``system calls`` that they do not need, the ``environment``, ``privileges``; without ``files``
            where the kernel has no Landlock, and empty where ``TRTPIPE_SANDBOX`` is off.
        targets: every GPU trtpipe knows, and what builds for it here.
        advisories: security bulletins that ask for later versions of what is installed.
        ready: whether the core works: everything but what an extra brings.
    """

    trtpipe: str
    machine: dict[str, str | int]
    memory: int
    packages: tuple[PackageState, ...]
    backends: tuple[BackendState, ...]
    gpus: tuple[GpuState, ...]
    driver: bool
    landlock: int
    sandbox: tuple[str, ...]
    cache: CacheState
    stages: tuple[StageState, ...]
    targets: tuple[TargetState, ...] = ()
    advisories: tuple[str, ...] = ()
    ready: bool

    @property
    def summary(self) -> Summary:
        """Whether the core works, and what is missing."""
        gpus = ", ".join(each.name for each in self.gpus) or "no GPU"
        word = "ready" if self.ready else "not ready"
        return Summary(f"trtpipe {self.trtpipe}: {word}; {gpus}", ("missing", "what helps"), self.missing)

    @property
    def missing(self) -> tuple[tuple[str, str], ...]:
        """(what is missing or broken, the command that helps), core packages first."""
        packages = [p for p in self.packages if p.problem and p.extra != "dev" and p.name not in _FLAVORS]
        return (
            *((f"{p.name}: {p.problem}", p.install) for p in packages),
            *((f"{b.name}: not installed", b.install) for b in self.backends if b.version is None),
        )


class ImportRequest(Record):
    """Modules to import."""

    modules: tuple[str, ...]


class ImportReply(Record):
    """module -> what its import raised; only those that raised."""

    problems: dict[str, str]


def diagnose(settings: Settings | None = None) -> Diagnosis:
    """Look at the interpreter, the packages, the back-ends, the GPUs and the cache folder.

    Core packages are really imported, in a child process: an installed package can still be broken.

    Args:
        settings: cache folder and limits (default: from the environment).

    Raises:
        InputError: ``settings`` is none.

    Example:
        >>> trtpipe.diagnose().ready
        True
    """
    check_arguments({"settings": settings})
    settings = settings or Settings.from_environment()
    here = gpus()
    needs = requirements()
    problems = _import_problems([need.name for need in needs if not need.extra], settings)
    packages = tuple(_package(need, problems) for need in needs)
    cache = _cache(settings.cache_dir)
    return Diagnosis(
        trtpipe=trtpipe.__version__,
        machine=machine(),
        memory=machine_memory(),
        packages=packages,
        backends=tuple(_backend(name, settings) for name in _FLAVORS),
        gpus=tuple(GpuState(name=gpu.name, target=gpu.target, driver=gpu.driver, memory=gpu.memory) for gpu in here),
        driver=has_driver(),
        landlock=landlock_version(),
        sandbox=protections() if settings.sandbox else (),
        cache=cache,
        targets=target_states(_FLAVORS),
        advisories=open_advisories(),
        stages=_stages({package.name: package.problem for package in packages if package.problem}, here),
        ready=not cache.problem and not any(package.problem for package in packages if not package.extra),
    )


def import_task(request: ImportRequest, report: Report) -> ImportReply:
    """Import modules (in the worker process)."""
    problems = {}
    for number, module in enumerate(request.modules):
        report(module, number, len(request.modules))
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001  whatever a broken package raises is the finding
            reason = str(error).strip().splitlines() or ["no reason given"]
            problems[module] = f"cannot be imported: {type(error).__name__}: {reason[0]}"
    return ImportReply(problems=problems)


class _Current(NullProgress):
    """Remembers which module is being imported: the one that caused a crash."""

    def __init__(self) -> None:
        self.module = ""

    def advance(self, phase: str, done: int, total: int | None) -> None:
        self.module = phase


def _import_problems(names: list[str], settings: Settings) -> dict[str, str]:
    """package -> what is wrong with it."""
    modules = {name.replace("-", "_"): name for name in names if version(name) is not None}
    current = _Current()
    try:
        reply = call(
            "trtpipe.api.doctor:import_task",
            ImportRequest(modules=tuple(modules)),
            ImportReply,
            limits=limits_for(settings),
            progress=current,
            what="importing packages",
        )
    except TrtpipeError as error:
        return {modules.get(current.module, next(iter(modules), "")): error.message}
    return {modules[module]: problem for module, problem in reply.problems.items()}


def _package(need: Requirement, problems: dict[str, str]) -> PackageState:
    installed = version(need.name)
    problem = problems.get(need.name, "")
    if installed is None:
        problem = "not installed"
    elif not need.allows(installed):
        problem = f"{installed} is too old, {need.least} is needed"
    # never trtpipe's own name, which pip would look up on an index to upgrade it: whoever has it there is not known
    what = f"'{need.name}>={need.least}'" if need.least else need.name
    install = f"pip install --upgrade {what}" if problem else ""
    return PackageState(
        name=need.name, extra=need.extra, needed=need.least, installed=installed, problem=problem, install=install
    )


def _backend(name: str, settings: Settings) -> BackendState:
    if refusal := missing(name):
        return BackendState(name=name, version=None, install=refusal.remedy)
    return BackendState(name=name, version=load_backend(name).fingerprint(settings)[name], install="")


def _cache(path: Path) -> CacheState:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    problem = ""
    try:
        ArtifactStore(path).close()
    except HostError as error:
        problem = error.message
    if not problem and not os.access(existing, os.W_OK | os.X_OK):
        problem = f"no permission to write in {existing}"
    return CacheState(path=str(path), free=shutil.disk_usage(existing).free, problem=problem)


def _stages(broken: dict[str, str], found: tuple[Gpu, ...]) -> tuple[StageState, ...]:
    """Where each stage will run."""

    def on_cpu(stage: str, package: str, more: str = "") -> StageState:
        ready = package not in broken
        where = f"CPU, {package} {version(package)}{more}" if ready else f"{package} {broken[package]}"
        return StageState(stage=stage, ready=ready, where=where)

    names = ", ".join(dict.fromkeys(f"{gpu.name} ({gpu.target})" for gpu in found))
    torch = f", torch {version('torch')}" if "torch" not in broken else f"; ONNX sources only (torch {broken['torch']})"
    return (
        on_cpu("export", "onnx", torch),
        on_cpu("simplify", "onnxsim"),
        on_cpu("calibrate", "onnxruntime"),
        on_cpu("lower", "onnx-ir"),
        _compile(),
        on_cpu("verify", "onnxruntime", f"; engines on {names}" if names else "; engines not, without a GPU"),
        on_cpu("measure", "onnxruntime", f"; engines on {names}" if names else ": this is not a GPU latency"),
    )


def _compile() -> StageState:
    """Which back-end compiles, if any can."""
    try:
        name, why = choose_backend("auto")
    except HostError as error:
        return StageState(stage="compile", ready=False, where=error.message)
    return StageState(stage="compile", ready=True, where=f"{name} {version(name)}: {why}")


def target_states(flavors: Sequence[str]) -> tuple[TargetState, ...]:
    """What each target is, and which of ``flavors`` are installed and build for it."""
    return tuple(_state(target, flavors) for target in TARGETS)


def _state(target: Target, flavors: Sequence[str]) -> TargetState:
    installed = [name for name in flavors if missing(name) is None]
    refusals = {name: load_backend(name).refuses(None, DeploymentProfile(), target) for name in installed}
    able = tuple(name for name, refusal in refusals.items() if refusal is None)
    reasons = [refusal.reason for refusal in refusals.values() if refusal is not None]
    return TargetState(
        name=target.name,
        family=target.family,
        names=target.aliases,
        dtypes=tuple(sorted(form.storage for form in target.formats)),
        dla=target.dla,
        backends=able,
        problem="" if able else "; ".join(reasons) or "no TensorRT is installed",
    )
