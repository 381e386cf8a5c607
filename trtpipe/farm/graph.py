"""From cells to tasks: which parts of builds are the same, and where each can run.

A build is a chain of stages, in the pipeline's order. Chains of cells that begin with the same stages under the same
settings on the same source share that beginning: they make a tree, a calibration near its root and engines at its
leaves. A task is a part of a chain that the same cells share and the same workers can do; it runs the pipeline up to
its last stage, and finds what others have made in the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import trtpipe
from trtpipe.api.request import make_job
from trtpipe.config.build_request import NotNeeded
from trtpipe.config.settings import Settings
from trtpipe.config.stage_settings import ObserveSettings
from trtpipe.config.target import find_target
from trtpipe.digest import sha256_json
from trtpipe.farm.tasks import Needs, Task, TaskRequest
from trtpipe.pipeline.pipeline import stages_for
from trtpipe.stages.observe_shards import can_shard

if TYPE_CHECKING:
    from trtpipe.artifact import Record
    from trtpipe.config.job import Job
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.recipe import CalibrationRecipe
    from trtpipe.farm.tasks import Offer, SealedCopy
    from trtpipe.stages.stage import Stage

#: Kinds of consumption that depend on the data.
_DATA = {"calibration-data", "evaluation-data", "samples", "first-samples", "metric"}
#: The first stage that depends on the flavor, the first that depends on its version, and those that run engines.
_FLAVOR, _VERSION, _RUNS = "calibrate", "lower", ("verify", "measure", "bundle")


@dataclass(frozen=True)
class Build:
    """One chain: a cell, or one of its models.

    Attributes:
        cell: the number of the cell.
        label: how people name it.
        version: how the back-end's version has to begin; empty: any.
    """

    cell: int
    label: str
    source: str
    profile: DeploymentProfile
    recipe: CalibrationRecipe
    backend: str
    version: str
    target: str
    copies: tuple[SealedCopy, ...] = ()


@dataclass
class _Node:
    """A stage under the same circumstances: of all builds that get there."""

    stage: str
    needs: Needs
    build: Build
    builds: list[int] = field(default_factory=list)
    children: dict[str, _Node] = field(default_factory=dict)
    ends: bool = False  # whether the pipeline of its builds ends here
    split: bool = False  # of observe: whether the data can be observed in parts


@dataclass(frozen=True)
class Graph:
    """All tasks, and the last one of each build."""

    tasks: tuple[Task, ...]
    last: tuple[int, ...]

    def of(self, builds: Sequence[int]) -> tuple[Task, ...]:
        """All tasks of some builds: their last ones, and what these wait for."""
        found: dict[int, None] = {}
        left = [self.last[build] for build in builds]
        while left:
            number = left.pop()
            if number not in found:
                found[number] = None
                left += self.tasks[number].after
        return tuple(self.tasks[number] for number in sorted(found))


def graph_of(
    builds: Sequence[Build],
    offers: Sequence[Offer],
    settings: Settings,
    *,
    seal: str = "",
    store: str = "",
    cache_dir: str = "",
    shards: int = 1,
) -> Graph:
    """The tasks of all builds, those first that others wait for.

    Args:
        offers: what workers have: an engine runs where a GPU is, if there is one.
        seal, store, cache_dir: see ``TaskRequest``.
        shards: into how many parts calibration data is split.
    """
    root = _Node("", Needs(), builds[0])
    for number, build in enumerate(builds):
        node = root
        for stage, identity, split in _chain(build, settings):
            needs = _needs(stage, build, offers)
            node = node.children.setdefault(f"{stage}:{identity}", _Node(stage, needs, build, split=split))
            node.builds.append(number)
        node.ends = True
    found = _Tasks(seal, store, cache_dir, shards, [-1] * len(builds))
    for child in root.children.values():
        found.add(child, (), ())
    return Graph(tuple(found.tasks), tuple(found.last))


def _chain(build: Build, settings: Settings) -> Iterator[tuple[str, str, bool]]:
    """(stage, what decides it and all before, whether it can be done in parts) of the stages that a build needs."""
    job = _plain_job(build, settings)
    identity = sha256_json([build.source, job.profile.to_dict()["shapes"], job.profile.auto_shapes])
    for stage in stages_for(job):
        decided = _decided(stage, job)
        found = stage.settings(job)
        if isinstance(found, NotNeeded) and stage.name not in _RUNS:
            continue
        if stage.name in (_FLAVOR, _VERSION):
            decided.append(build.backend)
        if stage.name == _VERSION:
            decided += [build.version, build.target, job.profile.to_dict()]
        identity = sha256_json([identity, stage.name, decided])
        yield stage.name, identity, isinstance(found, ObserveSettings) and can_shard(found)


def _plain_job(build: Build, settings: Settings) -> Job:
    """The job as far as no back-end counts: it need not be installed here."""
    job = make_job(build.source, engines=False, profile=build.profile, recipe=build.recipe, settings=settings)
    return replace(job, backend="null", targets=(find_target(build.target),))


def _decided(stage: Stage[Any], job: Job) -> list[Any]:
    found: Record | NotNeeded = stage.settings(job)
    if isinstance(found, NotNeeded):
        return []
    data = job.recipe.to_dict() if set(stage.consumes(found)) & _DATA else None
    return [stage.version, found.to_dict(), data]


def _needs(stage: str, build: Build, offers: Sequence[Offer]) -> Needs:
    built = Needs(flavor=build.backend, version=build.version)
    if stage in _RUNS:
        measured = built.model_copy(update={"gpu": build.target})
        return measured if any(offer.serves(measured) for offer in offers) else built
    if stage in (_VERSION, "compile", "reference"):
        return built
    return Needs(flavor=build.backend) if stage == _FLAVOR else Needs()


@dataclass
class _Tasks:
    """Tasks as they are found, from the root of the tree to its leaves."""

    seal: str
    store: str
    cache_dir: str
    shards: int
    last: list[int]
    tasks: list[Task] = field(default_factory=list)

    def add(self, node: _Node, before: tuple[int, ...], stages: tuple[str, ...]) -> None:
        """The task that begins with ``node``, and all after it."""
        first = len(stages)
        stages = (*stages, node.stage)
        while len(node.children) == 1 and not node.ends:
            (child,) = node.children.values()
            alone = child.split and self.shards > 1  # shards come before it
            if child.needs != node.needs or child.builds != node.builds or alone:
                break
            node = child
            stages = (*stages, node.stage)
        if "observe" in stages[first:] and self.shards > 1 and node.split:
            upto = stages[: stages.index("observe") + 1]
            before = tuple(
                self._append(node, before, upto, first, shard=(index, self.shards)) for index in range(self.shards)
            )
        number = self._append(node, before, stages, first)
        if node.ends:
            for build in node.builds:
                self.last[build] = number
        for child in node.children.values():
            self.add(child, (number,), stages)

    def _append(
        self,
        node: _Node,
        after: tuple[int, ...],
        stages: tuple[str, ...],
        first: int,
        shard: tuple[int, int] | None = None,
    ) -> int:
        build, number = node.build, len(self.tasks)
        ends = node.ends and shard is None
        request = TaskRequest(
            trtpipe=trtpipe.__version__,
            seal=self.seal,
            needs=node.needs,
            source=build.source,
            profile=build.profile,
            recipe=build.recipe,
            backend=build.backend,
            target=build.target,
            stages=stages,
            last=ends,
            shard=shard,
            shards=self.shards,
            store=self.store,
            cache_dir=self.cache_dir,
            copies=build.copies,
        )
        part = f" {shard[0] + 1} of {shard[1]}" if shard else ""
        own = stages[first:]
        label = f"{build.label}: {' '.join(own)}{part}"
        self.tasks.append(Task(number, label, node.needs, request, after, own, len(node.builds)))
        return number
