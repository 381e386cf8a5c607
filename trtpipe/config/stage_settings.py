"""The settings records of the stages: exactly what a stage reads of a job. A record is hashed as it is into the key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

from trtpipe.artifact import Record
from trtpipe.config.formats import Precision
from trtpipe.config.profile import BuildSettings
from trtpipe.config.recipe import WeightMethod

if TYPE_CHECKING:
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.recipe import CalibrationRecipe
    from trtpipe.config.source import Source
    from trtpipe.config.target import Target

#: Input name -> shape.
Shapes: TypeAlias = dict[str, tuple[int, ...]]


class BuildRequest(Protocol):
    """What a settings record may be made from: what the user asked for, and nothing of the machine."""

    @property
    def source(self) -> Source | None: ...

    @property
    def profile(self) -> DeploymentProfile: ...

    @property
    def recipe(self) -> CalibrationRecipe: ...

    @property
    def backend(self) -> str: ...

    @property
    def targets(self) -> tuple[Target, ...]: ...

    @property
    def target(self) -> Target | None: ...

    @property
    def together(self) -> tuple[Target, ...]: ...

    @property
    def simplify(self) -> bool: ...

    @property
    def allow_random(self) -> bool: ...


def typical_shapes(profile: DeploymentProfile) -> tuple[Shapes, ...]:
    """The typical (``opt``) shapes of every optimization profile; one that is empty where there is none."""
    found = tuple({name: shape.opt for name, shape in shapes.items()} for shapes in profile.shapes)
    return found or ({},)


class QuantizationSettings(Record):
    """What decides, for a given model and its ranges, which nodes are quantized and how.

    Attributes:
        precision: the 8-bit precision asked for.
        keep: patterns of node names that stay in float32.
        int8_nodes: patterns of node names that may compute in INT8; ``None`` for precisions other than ``best``.
        weights: how far each channel of a weight reaches.
        shapes: the typical input shapes, at which the work of a node is counted.
    """

    precision: Precision
    keep: tuple[str, ...] = ()
    int8_nodes: tuple[str, ...] | None = None
    weights: WeightMethod = "max"
    shapes: Shapes = {}

    @classmethod
    def of(cls, request: BuildRequest) -> QuantizationSettings | None:
        """Those of a request; ``None`` for a precision without 8-bit operators."""
        profile = request.profile
        if profile.precision.quantized is None:
            return None
        return cls(
            precision=profile.precision,
            keep=profile.keep,
            int8_nodes=profile.int8_nodes if profile.precision.mixed else None,
            weights=request.recipe.weights,
            shapes=typical_shapes(profile)[0],
        )


class EngineSearchSettings(Record):
    """For which engines ``best`` compares placements of 8-bit nodes.

    Attributes:
        backend: the back-end that builds; empty where no target is named.
        targets: names of the GPUs to build for, sorted; none where placements are not compared.
        shapes: the typical input shapes, for which engines are built.
        build: options of the builder.
    """

    backend: str = ""
    targets: tuple[str, ...] = ()
    shapes: Shapes = {}
    build: BuildSettings = BuildSettings()

    @classmethod
    def of(cls, request: BuildRequest, *, quick: bool) -> EngineSearchSettings | None:
        """Those of a request; ``None`` for a precision other than ``best``.

        Args:
            quick: whether the back-end builds quickly and says what is in its engines.
        """
        if not request.profile.precision.compared:
            return None
        if not request.targets or not quick:
            return cls(backend=request.backend if request.targets else "")
        return cls(
            backend=request.backend,
            targets=tuple(sorted({target.name for target in request.targets})),
            shapes=typical_shapes(request.profile)[0],
            build=request.profile.build,
        )
