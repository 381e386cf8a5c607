"""From the scores of an output to the names of classes, as the package says that they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.delivery.record import Model, Postprocessing


@dataclass(frozen=True)
class Classified:
    """The answer for one sample.

    Attributes:
        name: of the class with the highest score.
        score: its score: a probability where the package says how scores become one (softmax, sigmoid).
    """

    name: str
    score: float


def best_classes(model: Model, outputs: Mapping[str, np.ndarray], output: str = "") -> list[Classified]:
    """The best class of every sample.

    Args:
        output: which output to read; empty where one alone holds scores of classes.

    Raises:
        InputError: the package does not say which output holds scores of classes, or several do; scores are not one set
            a sample, or not numbers.
    """
    readings = [each for each in model.postprocessing if each.classes]
    if not readings or not model.classes:
        raise InputError(
            f"{model.name}: the package does not say which output holds scores of classes",
            "make it with a description (--describe) that names the classes",
        )
    found = [each for each in readings if output in ("", each.output)]
    if len(found) != 1:
        names = ", ".join(repr(each.output) for each in readings)
        asked = f"output {output!r} holds none" if output else "several outputs hold them"
        raise InputError(
            f"{model.name}: scores of classes: {asked}", f"name one of {names}: best_classes(outputs, NAME)"
        )
    (reading,) = found
    if not isinstance(outputs, Mapping) or not isinstance(outputs.get(reading.output), np.ndarray):
        raise InputError(f"outputs: no array for {reading.output!r}", "give what a call of the model returned")
    scores = activated(outputs[reading.output], reading)
    if scores.ndim != 2 or reading.axis not in (1, -1) or scores.shape[1] != len(model.classes):
        shape = "x".join(map(str, scores.shape))
        raise InputError(
            f"output {reading.output!r} has shape {shape}, and not [samples, {len(model.classes)} classes]",
            "read it as it is, or correct the description and make the package again",
        )
    if (wrong := np.isnan(scores).any(axis=1)).any():
        raise InputError(
            f"output {reading.output!r}: sample {wrong.argmax()} has scores that are not numbers (NaN)",
            "look at that sample's inputs; NaN or infinity in them gives such scores",
        )
    return [Classified(model.classes[row.argmax()], float(row.max())) for row in scores]


def activated(values: np.ndarray, reading: Postprocessing) -> np.ndarray:
    """An output with its activation applied, in float64; without one, as it is."""
    if reading.activation == "none":
        return values
    scores = values.astype(np.float64)
    if reading.activation == "sigmoid":
        return 1 / (1 + np.exp(-np.clip(scores, -700, 700)))
    shifted = np.exp(scores - scores.max(axis=reading.axis, keepdims=True))
    return shifted / shifted.sum(axis=reading.axis, keepdims=True)  # type: ignore[no-any-return]
