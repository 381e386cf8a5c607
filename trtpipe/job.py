"""A job: everything a user asked for, resolved and frozen, and what a stage finds on its table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trtpipe.errors import InternalError
from trtpipe.profile import DeploymentProfile
from trtpipe.recipe import CalibrationRecipe
from trtpipe.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.artifact import Artifact
    from trtpipe.data.dataset import Dataset
    from trtpipe.source import Source
    from trtpipe.target import Target


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
        settings: what the environment decides; never part of a key.
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
    def opt_shapes(self) -> dict[str, tuple[int, ...]]:
        """The typical shape of every dynamic input of the first optimisation profile."""
        return self.every_opt_shapes[0]

    @property
    def every_opt_shapes(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        """The typical shapes of every optimisation profile; one that is empty where there is none."""
        found = tuple({name: shape.opt for name, shape in shapes.items()} for shapes in self.profile.shapes)
        return found or ({},)


@dataclass(frozen=True)
class Inputs:
    """What a stage finds on its table: artifacts by label, and data sets by role.

    Attributes:
        artifacts: ``model``, ``simplified``, ``ranges``, ``lowered``, ``engine:sm89``, ...
        datasets: ``calibration-data`` and ``evaluation-data``.
        keys: label -> digest of the key the artifact was stored under, where it came from the store.
        source: digest of the source as the key has it; empty where only the export can tell.
    """

    artifacts: Mapping[str, Artifact]
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    def path(self, label: str) -> Path:
        """Main file of the artifact called ``label``."""
        if label not in self.artifacts:
            raise InternalError(f"a stage asked for {label!r}, which is not among its inputs {sorted(self.artifacts)}")
        return self.artifacts[label].path

    def engines(self) -> tuple[Artifact, ...]:
        """All engines, in the order of their targets."""
        return tuple(artifact for artifact in self.artifacts.values() if artifact.kind == "engine")
