"""Calibration recipes: which data, how it is prepared, and how ranges are chosen from it.

A recipe is a TOML file in ``calib/``. Relative paths in it are relative to the recipe's own folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from trtpipe.config.audio_transform import AudioTransform
from trtpipe.config.image_transform import ImageTransform
from trtpipe.config.methods import Method
from trtpipe.config.metrics import METRICS
from trtpipe.config.paths import path_of
from trtpipe.config.presets import found
from trtpipe.config.tomlfile import FROM_FILE, load_toml
from trtpipe.config.user_record import UserRecord
from trtpipe.durable import read_bounded
from trtpipe.errors import InputError, RecipeError

Pixels = Annotated[int, Field(ge=1)]
PerChannel = tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
WeightMethod: TypeAlias = Literal["max", "mse"]

_MODULE_FUNCTION = re.compile(r"[^\W\d][\w.]*(?<!\.py):[^\W\d]\w*")


class ImageSettings(UserRecord):
    """From an image file to a tensor: resize the short side, crop the center or fill up, scale, normalize, lay out.

    ``y = (x / 255 - mean) / std`` per channel, in float32, in the channel order and layout named.

    Attributes:
        input: the graph input the image feeds; empty if the model has just one.
        resize: length of the short side in pixels, or ``(height, width)`` without keeping the aspect; ``None``: as is.
        crop: (height, width) of the center crop; ``None`` for none.
        letterbox: (height, width) that the image is scaled into, with its aspect kept, and filled up to on both sides;
            in place of resize and crop.
        pad: (height, width) that the image is filled up to on the right and at the bottom, after resize.
        fill: value of the pixels that letterbox and pad add, 0 to 255.
        channels: channel order of the tensor; ``L`` is one luma channel (ITU-R BT.601, as Pillow's ``convert("L")``).
        layout: order of the axes behind the batch axis.
        interpolation: how pixels are resampled.
        mean, std: per channel, in units of the 0..1 scale.
    """

    input: str = ""
    resize: Pixels | tuple[Pixels, Pixels] | None = None
    crop: tuple[Pixels, Pixels] | None = None
    letterbox: tuple[Pixels, Pixels] | None = None
    pad: tuple[Pixels, Pixels] | None = None
    fill: Annotated[int, Field(ge=0, le=255)] = 114
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    layout: Literal["CHW", "HWC"] = "CHW"
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: PerChannel = (0.0, 0.0, 0.0)
    std: PerChannel = (1.0, 1.0, 1.0)

    @field_validator("std")
    @classmethod
    def _nonzero(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(v <= 0 for v in value):
            raise ValueError("every std must be greater than 0")
        return value

    @model_validator(mode="after")
    def _per_channel(self) -> ImageSettings:
        wanted = 1 if self.channels == "L" else 3
        given = {"mean": self.mean, "std": self.std}
        for name, values in given.items():
            if len(values) != wanted and name in self.model_fields_set:
                raise ValueError(f"{name} needs {wanted} value(s) for channels {self.channels!r}, it has {len(values)}")
        return self

    @model_validator(mode="after")
    def _one_size(self) -> ImageSettings:
        if self.letterbox and (self.resize or self.crop or self.pad):
            raise ValueError("letterbox stands in place of resize, crop and pad: leave these out")
        if self.pad and self.crop:
            raise ValueError("pad and crop contradict each other: choose one")
        return self

    def transform(self) -> ImageTransform:
        """The same as plain data, with a mean and a std for each channel."""
        channels = 1 if self.channels == "L" else 3
        plain = self.model_dump(exclude={"input"})
        return ImageTransform(**{**plain, "mean": self.mean[:channels], "std": self.std[:channels]})


class AudioSettings(UserRecord):
    """From a WAV file to the log mel energies that speech models take, float32 ``[bands, frames]``.

    The power spectrum of every frame (Hann window; the sound is reflected at its ends, so that frame i is centered at
    value ``i * hop``, and the last one is left out), triangles of equal area on Slaney's mel scale, and
    ``y = (log10(max(energy, 1e-10)) - mean) / std``. The recipe ``whisper-mel`` has Whisper's values.

    Attributes:
        input: the graph input the energies feed; empty if the model has just one.
        sample_rate: values a second (Hz); files of another rate are refused.
        window: values in a frame, and of its Fourier transform.
        hop: values from one frame to the next.
        bands: mel bands between 0 Hz and half the sample rate.
        seconds: the sound is cut to this length, or filled up with silence at its end; ``None``: as long as it is.
        decades: logarithms that lie further below the largest one of the sound are raised to it; ``None``: none are.
        mean, std: of the logarithms.
    """

    input: str = ""
    sample_rate: Annotated[int, Field(ge=1)] = 16000
    window: Annotated[int, Field(ge=2)] = 400
    hop: Annotated[int, Field(ge=1)] = 160
    bands: Annotated[int, Field(ge=1)] = 80
    seconds: Annotated[float, Field(gt=0, le=3600)] | None = None
    decades: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    std: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def transform(self) -> AudioTransform:
        """The same as plain data."""
        return AudioTransform(**self.model_dump(exclude={"input"}))


#: How files become inputs.
Preprocessing: TypeAlias = ImageSettings | AudioSettings


def _class_names(given: object, info: ValidationInfo) -> object:
    """Names from a list, or from a file; one that a recipe names lies beside it, and read once its place is known."""
    if isinstance(given, str):
        if info.context == FROM_FILE:
            return (_FILE + given,)
        return read_classes(Path(given))
    if isinstance(given, list | tuple) and len(set(given)) < len(given):
        raise ValueError("a class is named twice")
    return given


#: Names of a million classes.
_MOST_BYTES_OF_NAMES = 32 << 20


def read_classes(path: Path) -> tuple[str, ...]:
    """Names of classes from a text file, one a line; empty lines at the end do not count.

    Raises:
        ValueError: it cannot be read, or holds a name twice or none.
    """
    try:
        text = read_bounded(path, _MOST_BYTES_OF_NAMES).decode("utf-8")
    except InputError as error:
        raise ValueError(error.message) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{path}: no names, or one of them twice")
    return names


#: Marks the name of a file that holds the names.
_FILE = "\0"
Classes = Annotated[tuple[str, ...], BeforeValidator(_class_names)]


class DataSettings(UserRecord):
    """Where samples come from.

    Attributes:
        source: a folder of images or of WAV files, an ``.npz`` or ``.npy`` file, or ``path/file.py:function``.
        labels: name of the array in an ``.npz`` that holds the labels; empty for none. A folder laid out as
            ``<class>/<image>`` gives labels by itself (class index in sorted order of the folder names).
        samples: how many samples to use; ``None`` for all.
        seed: decides which samples, when there are more than asked for.
        batch: samples a feed, where the source holds single samples.
        skip_bad_samples: how many bad samples may be left out; one more stops the run.
        image: preprocessing, for a folder of images.
        audio: preprocessing, for a folder of WAV files.
        classes: names of the model's classes, in the order of its outputs: a list, or a text file with one a line. The
            sub-folders of a folder of images are matched to them. The recipe's own, where there are none here.
    """

    source: str = ""
    labels: str = ""
    samples: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    batch: Annotated[int, Field(ge=1)] = 1
    skip_bad_samples: Annotated[int, Field(ge=0)] = 0
    image: ImageSettings | None = None
    audio: AudioSettings | None = None
    classes: Classes = ()

    @model_validator(mode="after")
    def _one_table(self) -> DataSettings:
        if self.image and self.audio:
            raise ValueError("image and audio contradict each other: choose one")
        return self


class EvaluationSettings(DataSettings):
    """Labeled data that calibration must not see, and the task metric measured on it.

    Attributes:
        metric: ``top1``, ``top5``, ``cosine`` (with the reference's output; needs no labels), ``map``, ``wer``, or
            ``path/file.py:function`` (``package.module:function``): ``metric(outputs, labels)`` for each feed, or
            ``evaluate(run)``, which brings its own data, so that ``source`` may stay empty.
        output: the output that the metric reads; for ``evaluate``, the figure that counts. Empty for the first.
        lower_is_better: whether a function's figure is an error; those of trtpipe's own metrics are known.
    """

    metric: str = "top1"
    output: str = ""
    lower_is_better: bool = False

    @property
    def own(self) -> bool:
        """Whether the metric is the user's own function."""
        return self.metric not in METRICS

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        place, colon, name = value.rpartition(":")
        if value not in METRICS and not (place and colon and name.isidentifier()):
            raise ValueError(f"{value!r} is none of {', '.join(METRICS)}, nor path/file.py:function")
        return value


class CalibrationRecipe(UserRecord):
    """How activation ranges are found.

    Attributes:
        method: ``max`` (the largest magnitude seen), ``percentile`` (clip the rarest magnitudes), ``mse`` (least
            expected squared error), ``entropy`` (TensorRT's), or ``auto`` (per tensor the one that loses least at
            the model's output).
        percentile: calibration percentile; for the method of this name only.
        weights: per-channel weight range: ``max`` or ``mse``.
        corrections: ``auto``: SmoothQuant and bias correction where they reduce the output's error on real samples;
            ``none`` leaves the model as it is.
        classes: names of the model's classes, for both kinds of data, as in ``[data]``.
        data: the calibration samples.
        evaluation: held-out samples for accuracy; parity is checked on them too.
    """

    description: str = ""
    method: Method = "percentile"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    weights: WeightMethod = "max"
    corrections: Literal["auto", "none"] = "auto"
    classes: Classes = ()
    data: DataSettings = DataSettings()
    evaluation: EvaluationSettings | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CalibrationRecipe:
        """Read a recipe from TOML; relative sources are made relative to the working folder. ``imagenet`` and other
        names are those that come with trtpipe.

        Raises:
            RecipeError: the file or a key in it is wrong; the message names both.
        """
        path = found(path_of(path, "path"), "calib")
        recipe, folder = load_toml(path, cls), path.parent
        data, evaluation = _anchored(recipe.data, "source", folder), recipe.evaluation
        if evaluation is not None:
            evaluation = _anchored(evaluation, "source", folder)
            evaluation = _anchored(evaluation, "metric", folder) if evaluation.own else evaluation
        return recipe.model_copy(
            update={
                "classes": named_classes(recipe.classes, path),
                "data": data.model_copy(update={"classes": named_classes(data.classes, path)}),
                "evaluation": evaluation
                and evaluation.model_copy(update={"classes": named_classes(evaluation.classes, path)}),
            }
        )


def named_classes(classes: tuple[str, ...], recipe: Path) -> tuple[str, ...]:
    """Names as they are, or from the file that a recipe names, which lies beside it."""
    if not classes or not classes[0].startswith(_FILE):
        return classes
    try:
        return read_classes(recipe.parent / classes[0].removeprefix(_FILE))
    except ValueError as error:
        raise RecipeError(f"{recipe}: classes: {error}", "give a text file with one name a line") from error


D = TypeVar("D", bound=DataSettings)


def _anchored(data: D, key: str, folder: Path) -> D:
    """``data`` with a relative file resolved against the recipe's folder; ``module:function`` is no file."""
    place: str = getattr(data, key)
    if not place or Path(place).is_absolute() or _MODULE_FUNCTION.fullmatch(place):
        return data
    return data.model_copy(update={key: str(folder / place)})
