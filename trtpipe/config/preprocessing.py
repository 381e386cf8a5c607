"""What of the preprocessing of images is written into the graph, and what is left to those who read images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from trtpipe.artifact import Record
from trtpipe.config.recipe import ImageSettings, PerChannel
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.config.profile import DeploymentProfile, ShapeRange
    from trtpipe.config.recipe import CalibrationRecipe

#: Name of a model's metadata that holds what is written into its graph, as JSON.
METADATA = "trtpipe.preprocessing"
#: Axes of the bytes ``[N, H, W, C]``, in the order in which a model takes them.
_AXES = {"CHW": (0, 3, 1, 2), "HWC": (0, 1, 2, 3)}


class FoldedPreprocessing(Record):
    """Of bytes ``uint8[N, H, W, C]`` the graph computes ``(x / 255 - mean) / std``, in the layout of the model.

    Attributes:
        input: the input that takes the image; empty for a model's only one.
        layout: order of the axes behind the batch axis that the model itself takes.
        mean, std: per channel, in units of the 0..1 scale.
    """

    input: str
    layout: Literal["CHW", "HWC"]
    mean: PerChannel
    std: PerChannel

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return len(self.mean)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axis of the bytes that each axis of the model's own input is."""
        return _AXES[self.layout]

    @classmethod
    def of(cls, profile: DeploymentProfile, recipe: CalibrationRecipe) -> FoldedPreprocessing | None:
        """What a profile and a recipe ask for; ``None`` where the profile does not.

        Raises:
            InputError: the recipe does not say how images are prepared, or calibration and evaluation images are
                prepared differently.
        """
        if not profile.build.fold_preprocessing:
            return None
        tables = {"[data.image]": recipe.data.image}
        if recipe.evaluation is not None:
            tables["[evaluation.image]"] = recipe.evaluation.image
        found = {name: _folded(image) for name, image in tables.items() if image is not None}
        if not found:
            raise InputError(
                "fold_preprocessing: the recipe has no image table, so there is no preprocessing to write into the "
                "graph",
                "add [data.image] with mean, std and layout to the recipe (--calib RECIPE.toml)",
            )
        first = next(iter(found.values()))
        for name, other in found.items():
            field = next((each for each in cls.model_fields if getattr(other, each) != getattr(first, each)), None)
            if field is not None:
                raise InputError(
                    f"fold_preprocessing: {name} has another {field} than [data.image], and the graph can have one",
                    "give both image tables the same input, layout, mean and std",
                )
        return first

    @classmethod
    def in_metadata(cls, metadata: Mapping[str, str], label: str) -> FoldedPreprocessing | None:
        """What a model says that its graph does to images; ``None`` where it says nothing.

        Args:
            label: of the model, for messages.

        Raises:
            InputError: what it says is no such record.
        """
        if (text := metadata.get(METADATA)) is None:
            return None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InputError(
                f"{label}: its metadata {METADATA} is no preprocessing of images: {error.errors()[0]['msg']}",
                "remove that entry, or give the model that trtpipe wrote",
            ) from error

    def refuse_another(self, image: ImageSettings | None, label: str) -> None:
        """Complain if a recipe's image table asks for another preparation than the one in the graph.

        Raises:
            InputError: it does; the message names the field.
        """
        if image is None:
            return
        given = _folded(image)
        for field in sorted(image.model_fields_set & {"mean", "std", "layout"}):
            here, there = getattr(given, field), getattr(self, field)
            if here != there:
                raise InputError(
                    f"{label}: {field} {there} is written into the graph, the recipe's image table has {here}",
                    f"leave {field} out of the image table, or build the model anew",
                )

    def as_model_shapes(self, shapes: dict[str, ShapeRange]) -> dict[str, ShapeRange]:
        """Shapes of the inputs with the image in the layout of the model itself."""
        return {
            name: shape.permuted(self.axes) if self.input in ("", name) and len(shape.opt) == len(self.axes) else shape
            for name, shape in shapes.items()
        }


def _folded(image: ImageSettings) -> FoldedPreprocessing:
    channels = 1 if image.channels == "L" else 3
    mean, std = image.mean[:channels], image.std[:channels]
    return FoldedPreprocessing(input=image.input, layout=image.layout, mean=mean, std=std)


def left_to_readers(image: ImageSettings) -> ImageSettings:
    """What is still done to an image where the rest is in the graph: it is read as bytes ``[H, W, C]``."""
    whole = ImageSettings()
    mean, std = (values[: len(image.mean)] for values in (whole.mean, whole.std))
    return image.model_copy(update={"layout": "HWC", "mean": mean, "std": std})
