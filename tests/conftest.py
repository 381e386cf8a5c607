"""What several rooms share: a listener, jobs, and the work of child processes done in this one."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import HealthCheck, settings
from models import conv_net, save
from world import World, write_data

import trtpipe
from trtpipe.backends import null
from trtpipe.config.job import Job
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.config.source import parse_source
from trtpipe.config.target import find_target
from trtpipe.dynamic import check_corners
from trtpipe.exporter import process
from trtpipe.isolation.worker_main import resolve
from trtpipe.progress import NullProgress, Progress
from trtpipe.stages import export, simplify

if TYPE_CHECKING:
    from trtpipe.artifact import R, Record
    from trtpipe.config.source import Source

OURS = str(Path(trtpipe.__file__).parent)

# Keys of the tests' caches go here, not into the home of whoever runs them.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="trtpipe-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CONFIG_HOME"], ignore_errors=True)

# How fast a loaded machine draws examples says nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """What was imported stays to the end: no garbage collection need look at those millions of objects."""
    gc.freeze()


def refuse_unpickling(event: str, args: tuple[Any, ...]) -> None:
    """While the tests run, our own code cannot unpickle: not even by way of a library it calls.

    Raises:
        AssertionError: it tries.
    """
    if event != "pickle.find_class":
        return
    frame, depth = sys._getframe(1), 0
    while frame is not None and depth < 200:
        if frame.f_code.co_filename.startswith(OURS) and not frame.f_code.co_filename.endswith("exporter/loading.py"):
            raise AssertionError(f"{frame.f_code.co_filename} unpickles {args!r}")
        frame, depth = frame.f_back, depth + 1


sys.addaudithook(refuse_unpickling)


class Listener(NullProgress):
    """A Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def end(self, step: str, outcome: str) -> None:
        self.steps.append((step, outcome))


class MakeJob(Protocol):
    def __call__(self, source: str | Path | Source | None = None, **options: Any) -> Job: ...


@pytest.fixture
def heard_all() -> Listener:
    return Listener()


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """A job for the null back-end and sm89; what is no field of Job goes into the profile."""

    def make(source: str | Path | Source | None = None, **options: Any) -> Job:
        own = {
            name: options.pop(name) for name in ("simplify", "allow_random", "backend", "settings") if name in options
        }
        recipe = CalibrationRecipe.model_validate(options.pop("recipe", {}))
        targets = tuple(map(find_target, options.pop("targets", ["sm89"])))
        profile = DeploymentProfile.model_validate(options)
        found = parse_source(str(source)) if isinstance(source, str | Path) else source
        settings = Settings(cache_dir=tmp_path / "cache", worker_seconds=120.0)
        return Job(source=found, profile=profile, recipe=recipe, targets=targets,
                   **{"backend": "null", "settings": settings, **own})  # fmt: skip

    return make


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks for child processes run here: seconds become milliseconds, and what they call can be replaced."""

    def call(task: str, request: Record, reply: type[R], *, progress: Progress | None = None, **_: object) -> R:
        function, record = resolve(task)
        made = function(record.model_validate_json(request.model_dump_json()), (progress or NullProgress()).advance)
        return reply.model_validate(made.to_dict())

    for module in (process, null):
        monkeypatch.setattr(module, "call", call)
    monkeypatch.setattr(process, "call_user", call)
    for module in (export, simplify, check_corners):
        monkeypatch.setattr(module, "call_forked", call)


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world in which the usual job is built by the first who needs it, to be copied."""
    folder = tmp_path_factory.mktemp("built")
    save(conv_net(), folder / "net.onnx")
    write_data(folder)
    return World(folder)


@pytest.fixture
def world(tmp_path: Path, built: World, in_process: None) -> World:
    """A fresh copy of a world in which the usual job has been built."""
    if not (built.folder / "cache").is_dir():
        built.run(built.job(), NullProgress())
    shutil.copytree(built.folder, tmp_path / "world")
    return World(tmp_path / "world")


@pytest.fixture
def new_world(tmp_path: Path, in_process: None) -> World:
    """A world in which nothing has been built."""
    folder = tmp_path / "new"
    folder.mkdir()
    save(conv_net(), folder / "net.onnx")
    write_data(folder)
    return World(folder)
