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


def best_classes(model: Model, outputs: Mapping[str, np.ndarray]) -> list[Classified]:
    """The best class of every sample.

    Raises:
        InputError: the package does not say which output holds scores of classes, or they are not one set a sample.
    """
    reading = next((each for each in model.postprocessing if each.classes), None)
    if reading is None or not model.classes:
        raise InputError(
            f"{model.name}: the package does not say which output holds scores of classes",
            "make it with a description (--describe) that names the classes",
        )
    if not isinstance(outputs, Mapping) or not isinstance(outputs.get(reading.output), np.ndarray):
        raise InputError(f"outputs: no array for {reading.output!r}", "give what a call of the model returned")
    scores = activated(outputs[reading.output], reading)
    if scores.ndim != 2 or reading.axis not in (1, -1) or scores.shape[1] != len(model.classes):
        shape = "x".join(map(str, scores.shape))
        raise InputError(
            f"output {reading.output!r} has shape {shape}, and not [samples, {len(model.classes)} classes]",
            "read it as it is, or correct the description and make the package again",
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
