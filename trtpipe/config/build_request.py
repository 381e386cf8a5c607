"""What the settings records of stages are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.artifact import Record

if TYPE_CHECKING:
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.recipe import CalibrationRecipe
    from trtpipe.config.source import Source
    from trtpipe.config.target import Target

#: Input name -> shape.
Shapes: TypeAlias = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class BuildRequest:
    """What a settings record may be made from: what the user asked for, and nothing of the machine.

    Attributes:
        source: where the model comes from; ``None`` when a run starts from a later artifact.
        profile: what to build, with the command line's overrides merged in.
        recipe: calibration and evaluation data, and how ranges are chosen.
        backend: the back-end that compiles, resolved from ``auto``.
        targets: GPUs to compile for.
        handed_over: GPUs that the request names besides, whose engines are built elsewhere.
        target: the one target of a compile step; ``None`` for every other step.
        together: the targets whose engines share one plan with this one's, itself included; empty where it is alone.
        simplify: whether onnxsim may rewrite the graph.
        allow_random: whether calibration may fall back to random data.
    """

    source: Source | None
    profile: DeploymentProfile
    recipe: CalibrationRecipe
    backend: str
    targets: tuple[Target, ...]
    handed_over: tuple[Target, ...] = ()
    target: Target | None = None
    together: tuple[Target, ...] = ()
    simplify: bool = True
    allow_random: bool = False


class NotNeeded(Record):
    """In place of settings: why a request does not need a stage."""

    reason: str


def typical_shapes(profile: DeploymentProfile) -> tuple[Shapes, ...]:
    """The typical (``opt``) shapes of every optimization profile; one that is empty where there is none."""
    found = tuple({name: shape.opt for name, shape in shapes.items()} for shapes in profile.shapes)
    return found or ({},)


def synthetic_shapes(request: BuildRequest) -> tuple[Shapes, ...]:
    """``synthetic`` of a request: none where it names data, or allows random data."""
    evaluation = request.recipe.evaluation
    if request.recipe.data.source or request.allow_random or (evaluation is not None and evaluation.source):
        return ()
    return typical_shapes(request.profile)
