"""A job: everything a user asked for, resolved and frozen, and what a stage finds on its table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings

if TYPE_CHECKING:
    from trtpipe.config.source import Source
    from trtpipe.config.target import Target


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        source: where the model comes from; ``None`` when a run starts from a later artifact.
        profile: what to build, with the command line's overrides merged in.
        recipe: calibration and evaluation data, and how ranges are chosen.
        backend: the back-end that compiles, resolved from ``auto``.
        targets: GPUs to compile for.
        target: the one target of a compile step; ``None`` for every other step.
        together: the targets whose engines share one plan with this one's, itself included; empty where it is alone.
        simplify: whether onnxsim may rewrite the graph.
        allow_random: whether calibration may fall back to random data.
        settings: what the environment decides; never part of a key. See ``runtime``.
    """

    source: Source | None
    profile: DeploymentProfile
    recipe: CalibrationRecipe
    backend: str
    targets: tuple[Target, ...]
    settings: Settings
    target: Target | None = None
    together: tuple[Target, ...] = ()
    simplify: bool = True
    allow_random: bool = False

    def for_target(self, target: Target, together: tuple[Target, ...] = ()) -> Job:
        """This job, narrowed to one target, whose plan may also serve others."""
        return replace(self, target=target, together=together if target in together and len(together) > 1 else ())

    @property
    def runtime(self) -> Settings:
        """The machine's part, with the limits that the profile sets for the build of an engine."""
        build = self.profile.build
        return replace(self.settings, engine_seconds=build.time_limit, engine_memory=build.memory_limit)
