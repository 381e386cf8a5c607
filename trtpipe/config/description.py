"""What only the author knows of a model: names, meanings, units. A TOML file beside the profile."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import model_validator

from trtpipe.config.paths import path_of
from trtpipe.config.recipe import AudioSettings, Classes, ImageSettings, named_classes
from trtpipe.config.tomlfile import load_toml
from trtpipe.config.user_record import UserRecord


class InputDescription(UserRecord):
    """One input.

    Attributes:
        meaning, unit: what the values are.
        image, audio: how image files, or WAV files, become this input; where both are left out, as in the evaluation or
            calibration data.
    """

    meaning: str = ""
    unit: str = ""
    image: ImageSettings | None = None
    audio: AudioSettings | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> InputDescription:
        if self.image and self.audio:
            raise ValueError("image and audio contradict each other: choose one")
        return self


class OutputDescription(UserRecord):
    """One output.

    Attributes:
        meaning, unit: what the values are.
        activation: what is still to be applied to them.
        axis: along which they belong to the classes.
        classes: whether they are scores of the classes.
    """

    meaning: str = ""
    unit: str = ""
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    axis: int = -1
    classes: bool = False


class ModelDescription(UserRecord):
    """A model in its author's words.

    Attributes:
        name, version, description: of the model; by default the name is that of its source.
        classes: names of the classes, or a text file with one a line; by default those of the evaluation data.
        inputs, outputs: by their names in the graph.
    """

    name: str = ""
    version: str = ""
    description: str = ""
    classes: Classes = ()
    inputs: dict[str, InputDescription] = {}
    outputs: dict[str, OutputDescription] = {}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelDescription:
        """Read a description from TOML.

        Raises:
            RecipeError: the file or a key in it is wrong; the message names both.
        """
        file = path_of(path, "path")
        found = load_toml(file, cls)
        return found.model_copy(update={"classes": named_classes(found.classes, file)})
