"""The PTQ corrections of a quantized model, which lowering applies: part of ``ranges.json``."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from binascii import Error as NoBase64
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from trtpipe.artifact import Record

_WORD = np.dtype("<f4")
#: Of steps between values of a format.
STEP = np.dtype("i1")


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except NoBase64 as error:
        raise ValueError("it is not base64") from error


def _compressed(text: str) -> str:
    _decoded(text)
    return text


def _readable(text: str) -> str:
    data = _decoded(text)
    if len(data) % _WORD.itemsize or not np.isfinite(np.frombuffer(data, _WORD)).all():
        raise ValueError("it must hold finite float32 numbers")
    return text


#: float32 numbers in base64, little-endian: exact, and an eighth of the size of a list.
Vector = Annotated[str, AfterValidator(_readable)]


#: Small integers, a byte each, compressed by zlib, in base64: most of them are 0 or 1.
Steps = Annotated[str, AfterValidator(_compressed)]


class CorrectionTrial(Record):
    """One correction that was tried.

    Attributes:
        correction: its name, with its parameter.
        noise: output noise: noise over signal at the model's outputs, in dB, the mean over samples.
        taken: whether it was adopted; always true for the model without corrections.
    """

    correction: str
    noise: float
    taken: bool = False


class Smoothing(Record):
    """SmoothQuant of one activation.

    Attributes:
        factors: per-channel divisors.
        inserted: whether a multiplication is inserted; otherwise the factors are folded into constants.
        amax: the range of the smoothed tensor, which is quantized.
    """

    factors: Vector
    inserted: bool
    amax: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Fallback(Record):
    """What was kept in higher precision because of the outputs.

    Attributes:
        groups: how many groups of nodes that share a precision.
        work: their share of all multiply-accumulates.
        held: whether the outputs are within tolerance with them, on calibration samples and with a margin.
        least_coverage: the share of the quantizable multiply-accumulates that was to stay in 8 bits.
    """

    groups: int
    work: float
    held: bool
    least_coverage: float


class Corrections(Record):
    """Corrections of a quantized model.

    Attributes:
        smoothing: activation -> its SmoothQuant factors.
        rounding: output of a Conv, Gemm or MatMul -> by how many values of the format each of its weights lies above
            the nearest.
        biases: output of a Conv or Gemm -> what to add to its bias.
        kept: node kept in higher precision -> why, and how much output noise that saves.
        fallback: how much that is; ``None`` where nothing is kept, or needs to be.
        trials: what was tried, in order; the first is the model without corrections.
    """

    smoothing: dict[str, Smoothing] = {}
    rounding: dict[str, Steps] = {}
    biases: dict[str, Vector] = {}
    kept: dict[str, str] = {}
    fallback: Fallback | None = None
    trials: tuple[CorrectionTrial, ...] = ()

    @property
    def noise(self) -> float | None:
        """Output noise in dB with the corrections that were adopted; ``None`` if nothing was tried."""
        return next((trial.noise for trial in reversed(self.trials) if trial.taken), None)

    @property
    def taken(self) -> tuple[str, ...]:
        """The corrections that were adopted."""
        return tuple(trial.correction for trial in self.trials[1:] if trial.taken)


def packed(vector: np.ndarray) -> Vector:
    """A vector in the form of the record."""
    return b64encode(np.asarray(vector, _WORD).tobytes()).decode()


def unpacked(text: Vector) -> np.ndarray:
    """A vector of the record as a float32 array."""
    return np.frombuffer(b64decode(text), _WORD).astype(np.float32)


def packed_steps(steps: np.ndarray) -> Steps:
    """Steps in the form of the record. Nothing in them repeats, and looking for it would take long."""
    stream = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return b64encode(stream.compress(steps.astype(STEP).tobytes()) + stream.flush()).decode()


def unpacked_steps(text: Steps, count: int) -> np.ndarray | None:
    """A byte each, signed; ``None`` where the record holds another number of them."""
    try:
        data = zlib.decompressobj().decompress(b64decode(text), count + 1)  # never more, whatever it claims
    except zlib.error:
        return None
    return np.frombuffer(data, STEP) if len(data) == count else None
