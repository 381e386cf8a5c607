"""Does a sample fit the model? Errors name the sample, the input, and what was expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.config.units import suggestion
from trtpipe.data.bad_samples import NonFiniteInput
from trtpipe.data.sample import Sample
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.artifact import Feed, IOContract, TensorSpec


def checked(sample: Sample, contract: IOContract, where: str) -> Sample:
    """``sample`` as the model takes it: inputs in contract order, in the model's types, with a batch axis.

    Floating types are converted to each other, integers to another integer type that holds them. An array of one
    dimension less than the model's input gets a batch axis of length 1.

    Args:
        sample: arrays as the source holds them; labels of any integer type, one per row.
        where: the source and the sample, for error messages: ``calib.npz: row 17``.

    Raises:
        InputError: a missing or unknown input, a wrong type, rank or dimension, NaN or infinity, or bad labels.
    """
    names = [spec.name for spec in contract.inputs]
    for name in sample.feed:
        if name not in names:
            raise InputError(f"{where}: the model has no input {name!r}", suggestion(name, names, "inputs here"))
    if missing := [name for name in names if name not in sample.feed]:
        raise InputError(
            f"{where}: no array for input {missing[0]!r}", f"give an array for every input: {', '.join(names)}"
        )
    feed = {spec.name: _fitted(sample.feed[spec.name], spec, where) for spec in contract.inputs}
    return Sample(feed, _labels(sample.labels, Sample(feed).rows, where))


def is_single(feed: Feed, contract: IOContract) -> bool:
    """Whether every array lacks exactly the batch axis of its input."""
    ranks = {spec.name: len(spec.shape) for spec in contract.inputs if spec.shape is not None}
    return all(name in ranks and value.ndim == ranks[name] - 1 for name, value in feed.items())


def free_batch(contract: IOContract) -> IOContract:
    """``contract`` with inputs of any batch size: what a single sample has to fit before batching."""
    inputs = tuple(
        spec.model_copy(update={"shape": (None, *spec.shape[1:])}) if spec.shape else spec for spec in contract.inputs
    )
    return contract.model_copy(update={"inputs": inputs})


def static_batch(contract: IOContract) -> int | None:
    """The model's fixed batch size; ``None`` if it takes any."""
    return next((spec.shape[0] for spec in contract.inputs if spec.shape and isinstance(spec.shape[0], int)), None)


def numpy_type(spec: TensorSpec, where: str) -> np.dtype:
    """The numpy type of an input, bfloat16 and float8 included.

    Raises:
        InputError: the input holds no numbers.
    """
    import ml_dtypes  # noqa: F401  registers its types with numpy by name

    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind in "biu" or is_float(dtype):
        return dtype
    raise InputError(f"{where}: input {spec.name!r} takes {spec.dtype}", "use a model whose inputs are numbers")


def is_float(dtype: np.dtype) -> bool:
    """Whether ``dtype`` is a real floating type, bfloat16 and float8 included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def are_pixels(low: float, high: float) -> bool:
    """Whether floats with these extremes look like pixels from 0 to 255, which few networks take."""
    return low >= 0 and 100 < high <= 255


def _fitted(value: np.ndarray, spec: TensorSpec, where: str) -> np.ndarray:
    """``value`` in the input's type and with its batch axis."""
    value = _typed(value, spec, where)
    if spec.shape is None:
        return value
    if value.ndim == len(spec.shape) - 1:
        value = value[np.newaxis]
    fits = value.ndim == len(spec.shape) and all(
        wanted == found for wanted, found in zip(spec.shape, value.shape, strict=True) if isinstance(wanted, int)
    )
    if fits:
        return value
    raise InputError(
        f"{where}: input {spec.name!r} has shape {list(value.shape)}, the model takes {spec}",
        "bring the data into the model's shape (symbolic and '?' dimensions may have any length)",
    )


def _typed(value: np.ndarray, spec: TensorSpec, where: str) -> np.ndarray:
    wanted = numpy_type(spec, where)
    if is_float(value.dtype) and is_float(wanted):
        return _converted_floats(value, wanted, spec, where)
    if value.dtype == wanted:
        return value
    if value.dtype.kind in "biu" and wanted.kind in "iu" and _holds(wanted, value):
        return value.astype(wanted)
    if value.dtype.kind in "iu" and is_float(wanted):
        scale = " / 255" if value.dtype == np.uint8 else ""
        remedy = f"scale and convert the data as in training, for example x.astype('float32'){scale}"
    else:
        remedy = f"convert the data to {spec.dtype}"
    raise InputError(f"{where}: input {spec.name!r} has type {value.dtype}, the model takes {spec.dtype}", remedy)


def _converted_floats(value: np.ndarray, wanted: np.dtype, spec: TensorSpec, where: str) -> np.ndarray:
    finite = np.isfinite(value)
    if not finite.all():
        count = value.size - int(np.count_nonzero(finite))
        raise NonFiniteInput(
            f"{where}: input {spec.name!r} holds NaN or infinity in {count} of {value.size} values",
            "correct or remove this sample",
            spec.name,
            count,
            value.size,
        )
    with np.errstate(over="ignore"):
        converted = value.astype(wanted, copy=False)
    if converted.dtype != value.dtype and not np.isfinite(converted).all():
        raise InputError(f"{where}: input {spec.name!r} holds values too large for {spec.dtype}", "scale the data")
    return converted


def _holds(wanted: np.dtype, value: np.ndarray) -> bool:
    """Whether the integers in ``value`` all fit into ``wanted``."""
    if not value.size or np.can_cast(value.dtype, wanted):
        return True
    limits = np.iinfo(wanted)
    return limits.min <= int(value.min()) and int(value.max()) <= limits.max


def _labels(labels: np.ndarray | None, rows: int, where: str) -> np.ndarray | None:
    if labels is None:
        return None
    if (structured := _structured(labels, rows, where)) is not None:
        return structured
    flat = labels.reshape(-1)
    if labels.dtype.kind not in "iu":
        raise InputError(f"{where}: labels have type {labels.dtype}", "give class numbers as integers")
    if len(flat) != rows:
        raise InputError(f"{where}: {len(flat)} label(s) for {rows} row(s)", "give one label for each row of the batch")
    return flat.astype(np.int64)


def _structured(labels: np.ndarray, rows: int, where: str) -> np.ndarray | None:
    """Labels of several numbers per row (boxes, transcripts), with the batch axis; ``None`` for one per row."""
    if labels.ndim < 2 or labels.size == rows:
        return None
    if labels.dtype.kind not in "iuf":
        raise InputError(f"{where}: labels have type {labels.dtype}", "give numbers")
    if rows == 1 and labels.shape[0] != 1:
        labels = labels[np.newaxis]
    if labels.shape[0] != rows:
        raise InputError(
            f"{where}: labels have shape {list(labels.shape)} for {rows} row(s)",
            "give labels for each row of the batch",
        )
    return labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)
