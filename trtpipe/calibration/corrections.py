"""PTQ corrections that were found, for lowering to apply: part of ``ranges.json``."""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as NoBase64
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from trtpipe.artifact import Record

_WORD = np.dtype("<f4")


def _readable(text: str) -> str:
    try:
        data = b64decode(text, validate=True)
    except NoBase64 as error:
        raise ValueError("it is no base64") from error
    if len(data) % _WORD.itemsize or not np.isfinite(np.frombuffer(data, _WORD)).all():
        raise ValueError("it must hold finite float32 numbers")
    return text


#: float32 numbers in base64, little-endian: exact, and an eighth of the size of a list.
Vector = Annotated[str, AfterValidator(_readable)]


class CorrectionTrial(Record):
    """One correction that was tried.

    Attributes:
        correction: its name, with its parameter.
        noise: noise over signal at the model's outputs, in dB, the mean over held samples.
        taken: whether it is among the corrections; the model without any, on which they build, always is.
    """

    correction: str
    noise: float
    taken: bool = False


class Smoothing(Record):
    """How the channels of one activation are smoothed.

    Attributes:
        factors: what they are divided by.
        inserted: by a multiplication; otherwise by folding the factors into constants.
        amax: the range of the tensor that is quantized then.
    """

    factors: Vector
    inserted: bool
    amax: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Corrections(Record):
    """Corrections of a quantized model.

    Attributes:
        smoothing: activation -> how it is smoothed.
        biases: output of a weighted node -> what to add to its bias.
        kept: node to keep in higher precision -> why.
        trials: what was tried, in order; the first is the model without corrections.
    """

    smoothing: dict[str, Smoothing] = {}
    biases: dict[str, Vector] = {}
    kept: dict[str, str] = {}
    trials: tuple[CorrectionTrial, ...] = ()

    @property
    def noise(self) -> float | None:
        """Noise over signal in dB with everything quantized and what was taken; ``None`` if nothing was tried."""
        return next((trial.noise for trial in reversed(self.trials) if trial.taken), None)

    @property
    def taken(self) -> tuple[str, ...]:
        """The corrections that were taken."""
        return tuple(trial.correction for trial in self.trials[1:] if trial.taken)


def packed(vector: np.ndarray) -> Vector:
    """A vector as the record holds it."""
    return b64encode(np.asarray(vector, _WORD).tobytes()).decode()


def unpacked(text: Vector) -> np.ndarray:
    """A vector of the record as float32 array."""
    return np.frombuffer(b64decode(text), _WORD).astype(np.float32)
