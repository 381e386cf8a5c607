"""What travels between the driver and its workers: records, as JSON."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

import trtpipe
from trtpipe.artifact import FileEntry, Record
from trtpipe.backends.base import BACKENDS, load_backend, missing
from trtpipe.backends.gpu import gpus
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.store import Key

#: Not for what they build, but for what runs everywhere.
_ALWAYS = ("onnxruntime",)


class Needs(Record):
    """What a task needs of its worker.

    Attributes:
        flavor: a back-end that has to be installed; empty: none.
        version: how its version begins; empty: any.
        gpu: the target of a GPU that has to be there; empty: none.
    """

    flavor: str = ""
    version: str = ""
    gpu: str = ""

    def __str__(self) -> str:
        installed = f"{self.flavor} {self.version}".strip()
        return " and ".join(filter(None, (installed, f"a GPU {self.gpu}" if self.gpu else ""))) or "nothing"


class Offer(Record):
    """What a worker has.

    Attributes:
        name: where it is.
        trtpipe: its version.
        flavors: back-end -> version, of those that are installed.
        gpus: targets of its GPUs, one entry a GPU.
        seal: what tells its store's key from others, and nothing of it; empty where it was not asked.
    """

    name: str
    trtpipe: str
    flavors: dict[str, str] = {}
    gpus: tuple[str, ...] = ()
    seal: str = ""

    def serves(self, needs: Needs) -> bool:
        """Whether a task with these needs can run there."""
        version = self.flavors.get(needs.flavor)
        if needs.flavor and (version is None or not begins(version, needs.version)):
            return False
        return not needs.gpu or needs.gpu in self.gpus


class SealedCopy(Record):
    """A file or folder of the driver that workers get from the shared store.

    Attributes:
        path: what it is called on the driver.
        folder: whether it is one.
        files: by their names in it.
        sent: whether they are in the shared store; what is too large for that has to be where workers see it.
    """

    path: str
    folder: bool
    files: tuple[FileEntry, ...]
    sent: bool = True


class TaskRequest(Record):
    """A part of a build: some stages of its pipeline, from the first on; what is in the store is taken from there.

    Attributes:
        trtpipe, seal: of the driver, which have to be the worker's too.
        needs: for what the worker was chosen.
        stages: names of stages, the last one of which is what the task is for.
        last: whether the pipeline ends with them, so that the reply has a verdict.
        shard: (number, count) to observe a part of the calibration data; ``None`` for all of it.
        shards: into how many parts the calibration data was split, whose statistics are to be merged.
        store: the address of the shared store; empty for none.
        cache_dir: the cache, where workers are on the driver's machine; empty: their own.
    """

    trtpipe: str
    seal: str
    needs: Needs = Needs()
    source: str
    profile: DeploymentProfile
    recipe: CalibrationRecipe
    backend: str
    target: str
    stages: tuple[str, ...]
    last: bool
    shard: tuple[int, int] | None = None
    shards: int = 1
    store: str = ""
    cache_dir: str = ""
    copies: tuple[SealedCopy, ...] = ()


class StageDone(Record):
    """A stage as a task left it; see ``Step``."""

    label: str
    state: Literal["hit", "built", "skipped", "failed"]
    seconds: float
    because: str = ""


class TaskError(Record):
    """Why a task failed, as the command line would say it."""

    kind: str
    message: str
    remedy: str
    exit_code: int


class Figures(Record):
    """A build in a few figures.

    Attributes:
        outcome, exit_code, headline: of its verdict.
        metric, value, drop: the task metric of what decides, and by how much it is worse than the reference's.
        size: bytes of the engines' plans.
        kernels: of the engines.
        weight_bytes, activation_bytes: of the engines, as far as the builder reports them.
        median, p99: milliseconds on a GPU, at the largest measured batch.
        version: of the flavor that built.
    """

    outcome: Literal["passed", "failed", "not judged"]
    exit_code: int
    headline: str
    metric: str = ""
    value: float | None = None
    drop: float | None = None
    size: int | None = None
    kernels: int | None = None
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    median: float | None = None
    p99: float | None = None
    version: str = ""


class TaskReply(Record):
    """What became of a task.

    Attributes:
        worker: who did it.
        steps: its stages; empty where it failed before.
        artifacts: label -> the key under which the store has it.
        figures: of the whole build, where the task was its last.
        warnings: what a build on one machine would have said.
    """

    worker: str
    seconds: Annotated[float, Field(ge=0)]
    warnings: tuple[str, ...] = ()
    steps: tuple[StageDone, ...] = ()
    artifacts: dict[str, Key] = {}
    figures: Figures | None = None
    error: TaskError | None = None


@dataclass(frozen=True)
class Task:
    """A task in the graph.

    Attributes:
        number: its place among all.
        label: how people name it.
        request: what a worker gets.
        after: numbers of the tasks that have to be done before.
        own: the stages that it is for; it finds the results of those before in the store.
        cells: how many cells it serves.
    """

    number: int
    label: str
    needs: Needs
    request: TaskRequest
    after: tuple[int, ...]
    own: tuple[str, ...]
    cells: int = 1


def begins(version: str, wanted: str) -> bool:
    """Whether ``version`` is ``wanted``, or a release of it: 1.7.1 is one of 1.7, and 1.70 is not."""
    return not wanted or f"{version}.".startswith(f"{wanted}.")


def own_offer(settings: Settings | None = None) -> Offer:
    """What this machine has."""
    here = settings or Settings.from_environment()
    names = (name for name in BACKENDS if name not in _ALWAYS and missing(name) is None)
    flavors = {name: load_backend(name).fingerprint(here).get(name, "") for name in names}
    return Offer(
        name=socket.gethostname(),
        trtpipe=trtpipe.__version__,
        flavors=flavors,
        gpus=tuple(gpu.target for gpu in gpus()),
    )
