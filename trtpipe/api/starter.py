"""A profile and a recipe to start from, made by looking at the model and the data."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtpipe.api.arguments import CommonArguments, takes
from trtpipe.api.request import chosen_engines, recipe_from
from trtpipe.api.stages import export
from trtpipe.backends.choice import default_targets
from trtpipe.config.formats import FP16, INT8, Precision
from trtpipe.config.paths import path_of
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.source import FactorySource, parse_source
from trtpipe.data.dataset import check_source, open_dataset
from trtpipe.errors import HostError, InputError
from trtpipe.pipeline.publish import check_writable, write_files
from trtpipe.preflight.onnx_io import read_contract
from trtpipe.progress import NullProgress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Unpack

    from trtpipe.artifact import IOContract, TensorSpec
    from trtpipe.config.paths import PathLike
    from trtpipe.config.target import Target
    from trtpipe.progress import Progress

PROFILE, RECIPE = "profile.toml", "recipe.toml"
_BATCH = (1, 8, 32)
#: Channels of images.
_CHANNELS = (1, 3)
#: Smallest, usual and largest length of an axis whose meaning is not known.
_LENGTH = (1, 128, 512)
_PIXELS = (224, 224, 640)
#: The back-end that needs no GPU.
_ANYWHERE = "tensorrt-rtx"


@dataclass(frozen=True)
class StarterFiles:
    """What ``init`` wrote.

    Attributes:
        command: the build command, word by word.
        guesses: what in the files is a guess, and has to be looked at.
        misfits: what is wrong with the data, as far as its first sample shows; the build would fail on it.
    """

    profile: Path
    recipe: Path
    command: tuple[str, ...]
    guesses: tuple[str, ...]
    misfits: tuple[str, ...] = ()


@takes(CommonArguments)
def init(
    source: PathLike,
    out: PathLike = ".",
    *,
    calib_data: PathLike | None = None,
    eval_data: PathLike | None = None,
    **common: Unpack[CommonArguments],
) -> StarterFiles:
    """Write a commented profile and recipe for a model, to be edited.

    The model is exported once (and kept in the cache, so that the build need not do it again) to see its inputs.

    Args:
        source: a path or factory, as ``build`` takes it; the files and the command name it, so nothing in memory.
        out: the folder for ``profile.toml`` and ``recipe.toml``; files of the user's are never replaced.
        calib_data: a folder of images, an ``.npz``, ``file.py:function``, and no feeds in memory; decides what the
            recipe holds.
        eval_data: likewise, held-out samples.

    Raises:
        InputError: the source cannot be used; there is no such data; either is in memory; there is such a file already.
        StageError: the model cannot be exported.

    Example:
        >>> trtpipe.init("model.onnx", "start", calib_data="photos.npz").command[:2]
        ('trtpipe', 'build')
    """
    name = str(path_of(_name_of(source, "source", "a path, or file.py:factory"), "source"))
    folder = path_of(out, "out")
    calib_data = "" if calib_data is None else _name_of(calib_data, "calib_data", "a path, or file.py:function")
    eval_data = "" if eval_data is None else _name_of(eval_data, "eval_data", "a path, or file.py:function")
    files = folder / PROFILE, folder / RECIPE
    for path in files:
        if path.exists():
            raise InputError(f"{path}: there is such a file already", "choose another folder with -o, or edit this one")
    check_writable(folder)
    for data in filter(None, (calib_data, eval_data)):
        check_source(data)
    common["recipe"] = recipe_from({"recipe": common.get("recipe"), "calib_data": calib_data or None})
    with TemporaryDirectory(prefix="trtpipe-") as work:
        exported = export(name, Path(work) / "model.onnx", **common)
        assert exported.out is not None
        contract = read_contract(exported.out)
    choosable = _choosable(name, contract)
    guesses = list(_guesses(contract, choosable, calib_data))
    profile = _profile(name, contract, choosable, calib_data, common)
    recipe = _recipe(contract, calib_data, eval_data)
    folder.mkdir(parents=True, exist_ok=True)
    write_files({files[0]: profile, files[1]: recipe}, named=files)
    DeploymentProfile.load(files[0])  # what is written here is what is read there
    misfits = tuple(_misfits(CalibrationRecipe.load(files[1]), contract))
    for misfit in misfits:
        (common.get("progress") or NullProgress()).warn(misfit)
    words = ("trtpipe", "build", name, "--profile", str(files[0]), "--calib", str(files[1]), "-o", "build/model")
    return StarterFiles(*files, words, tuple(guesses), misfits)


def _misfits(recipe: CalibrationRecipe, contract: IOContract) -> Iterator[str]:
    """What is wrong with the first sample of each data set that the recipe names."""
    for argument, data in (("calib_data", recipe.data), ("eval_data", recipe.evaluation)):
        if data is None or not data.source:
            continue
        try:
            with closing(iter(open_dataset(data, contract))) as samples:
                if next(samples, None) is None:
                    yield f"{argument}: {data.source}: there is no sample in it"
        except InputError as error:
            yield f"{argument}: {error.message}; try: {error.remedy}"


def _name_of(given: object, argument: str, wanted: str) -> str:
    """A source or data as files can name it; empty for none.

    Raises:
        InputError: it is in memory.
    """
    if not isinstance(given, (str, os.PathLike)):
        raise InputError(
            f"{argument}: what init writes names it, and a {type(given).__name__} in memory has no name",
            f"give {argument} as {wanted}; build takes it in memory, with arguments in the place of these files",
        )
    return os.fspath(given)


def _image_layout(spec: TensorSpec) -> str:
    """``CHW`` or ``HWC`` of an input that looks like images; empty for others."""
    if spec.shape is None or len(spec.shape) != 4:
        return ""
    if spec.shape[1] in _CHANNELS:
        return "CHW"
    return "HWC" if spec.shape[3] in _CHANNELS else ""


def _dynamic(contract: IOContract) -> list[TensorSpec]:
    return [spec for spec in contract.inputs if spec.shape is None or any(not isinstance(d, int) for d in spec.shape)]


def _choosable(name: str, contract: IOContract) -> list[TensorSpec]:
    """Inputs of a PyTorch factory that are fixed, and would not be with shapes in the profile."""
    factory = isinstance(parse_source(name), FactorySource)
    return [spec for spec in contract.inputs if spec.shape] if factory and not _dynamic(contract) else []


def _guesses(contract: IOContract, choosable: list[TensorSpec], calib_data: str) -> Iterator[str]:
    images = [spec.name for spec in contract.inputs if _image_layout(spec)]
    if _holds_sounds(calib_data):
        yield f"{RECIPE}: sample_rate, window, hop, mean and std are Whisper's; take those of the training code"
    elif images and (not calib_data or Path(calib_data).is_dir()):
        yield f"{RECIPE}: mean, std and resize of {images[0]} are ImageNet's; take those of the training code"
    if dynamic := _dynamic(contract):
        names = ", ".join(spec.name for spec in dynamic)
        yield f"{PROFILE}: the shapes of {names}: write those that are served, or remove them and use --shapes auto"
    if choosable:
        yield f"{PROFILE}: inputs are fixed as in the example; the shapes that are commented out make the batch dynamic"


def _profile(
    name: str, contract: IOContract, choosable: list[TensorSpec], calib_data: str, common: CommonArguments
) -> str:
    listener = common.get("progress") or NullProgress()
    backend, targets = _engines(listener)
    precision = (INT8 if calib_data else FP16).name
    calibrated = ", ".join(str(each) for each in Precision if each.calibrated)
    names = json.dumps([target.name for target in targets])
    lines = [
        f"description = {json.dumps(f'A start for {Path(name).name}')}",
        "",
        f'precision = "{precision}"  # {calibrated} need calibration data (the recipe), {FP16.name} does not',
        f"targets = {names}  # the GPUs that will run it; trtpipe doctor lists them",
        f'backend = "{backend}"  # tensorrt builds on a machine with a GPU, tensorrt-rtx on any',
        '# keep = ["head*"]  # names of nodes to keep in higher precision; trtpipe sensitivity ranks them',
    ]
    for spec in _dynamic(contract):
        if spec.shape is not None:
            lines += ["", *_shapes(spec)]
    for spec in choosable:
        lines += ["", *(f"# {line}" for line in _shapes(spec, batch=True))]
    lines += [
        "",
        "[accuracy]",
        'max_drop = "1pt"  # of the metric, in points; with evaluation data in the recipe',
        "",
        "[latency]",
        'duration = "3s"',
        '# max_p99 = "5ms"  # a gate: the build fails where an engine on a GPU is slower',
    ]
    return "\n".join(lines) + "\n"


def _engines(listener: Progress) -> tuple[str, tuple[Target, ...]]:
    """What builds here, and for what; where nothing does, what builds on any machine once it is installed."""
    try:
        return chosen_engines(DeploymentProfile(), listener, "targets = [...] in the profile")
    except HostError as error:
        listener.note(f"{error.message}: {error.remedy}")
        return _ANYWHERE, default_targets(_ANYWHERE)[0]


def _shapes(spec: TensorSpec, *, batch: bool = False) -> Iterator[str]:
    """The table of an input's shapes; sizes that are not known are guesses, and that of the batch where it is free."""
    assert spec.shape is not None
    layout = _image_layout(spec)
    sides = {"CHW": (2, 3), "HWC": (1, 2)}.get(layout, ())
    yield f"[shapes.{json.dumps(spec.name)}]  # {', '.join('?' if d is None else str(d) for d in spec.shape)}"
    for number, word, words in (
        (0, "min", "the smallest that is served"),
        (1, "opt", "what the builder tunes for"),
        (2, "max", "a larger one is refused at run time"),
    ):
        sizes = [
            size
            if isinstance(size, int) and not (batch and axis == 0)
            else (_BATCH if axis == 0 else _PIXELS if axis in sides else _LENGTH)[number]
            for axis, size in enumerate(spec.shape)
        ]
        yield f"{word} = {json.dumps(sizes)}  # {words}"


def _recipe(contract: IOContract, calib_data: str, eval_data: str) -> str:
    lines = [
        'description = "How activation ranges are found"',
        "",
        'method = "percentile"  # clips the few outliers that would stretch the int8 scale; auto chooses per tensor',
        "percentile = 99.99",
        "",
        "[data]",
        f"source = {json.dumps(_place(calib_data))}  # a folder of images, an .npz, or file.py:function; training data",
        "samples = 512  # a few hundred are usually enough",
        "seed = 0  # which samples, where there are more",
    ]
    image = next((spec for spec in contract.inputs if _image_layout(spec)), None)
    if _holds_sounds(calib_data):
        lines += ["", *_sounds(contract.inputs[0])]
    elif image is not None and (not calib_data or Path(calib_data).is_dir()):
        lines += ["", *_images(image, several=len(contract.inputs) > 1)]
    evaluation = [
        "[evaluation]",
        f"source = {json.dumps(_place(eval_data))}  # never the calibration data",
        'metric = "top1"  # top5, cosine, map, wer, or file.py:function',
    ]
    lines += ["", *(evaluation if eval_data else (f"# {line}" for line in evaluation))]
    return "\n".join(lines) + "\n"


def _place(source: str) -> str:
    """A source as a recipe in another folder names it."""
    path, colon, function = source.rpartition(":")
    if colon and Path(path).exists():
        return f"{Path(path).absolute()}:{function}"
    return str(Path(source).absolute()) if source and Path(source).exists() else source


def _holds_sounds(calib_data: str) -> bool:
    """Whether it is a folder with WAV files."""
    return Path(calib_data).is_dir() and bool(calib_data) and any(Path(calib_data).rglob("*.wav"))


def _sounds(spec: TensorSpec) -> Iterator[str]:
    whisper = CalibrationRecipe.load("whisper-mel").data.audio
    assert whisper is not None
    bands, frames = spec.shape[-2:] if spec.shape is not None and len(spec.shape) >= 2 else (None, None)
    yield "[data.audio]  # y = (log10(energy) - mean) / std, of mel bands"
    yield f"sample_rate = {whisper.sample_rate}  # Hz; files of another rate are refused"
    yield f"window = {whisper.window}  # values in a frame"
    yield f"hop = {whisper.hop}  # from one frame to the next"
    yield f"bands = {bands if isinstance(bands, int) else whisper.bands}"
    if isinstance(frames, int):
        yield f"seconds = {frames * whisper.hop / whisper.sample_rate}  # cut, or filled up with silence"
    yield f"decades = {whisper.decades}  # lower logarithms are raised to so many below the largest"
    yield f"mean = {whisper.mean}"
    yield f"std = {whisper.std}"


def _images(spec: TensorSpec, *, several: bool) -> Iterator[str]:
    assert spec.shape is not None
    layout = _image_layout(spec)
    channels, sides = (spec.shape[1], spec.shape[2:]) if layout == "CHW" else (spec.shape[3], spec.shape[1:3])
    height, width = (side if isinstance(side, int) else _PIXELS[1] for side in sides)
    yield "[data.image]  # y = (x / 255 - mean) / std"
    if several:
        yield f"input = {json.dumps(spec.name)}"
    if channels == 1:
        yield f"resize = [{height}, {width}]  # height and width, in pixels"
        yield 'channels = "L"'
    else:
        yield f"resize = {round(min(height, width) * 256 / 224)}  # the short side, in pixels"
        yield f"crop = [{height}, {width}]  # the center"
        yield 'channels = "RGB"'
        yield "mean = [0.485, 0.456, 0.406]  # ImageNet's: take those of the training code"
        yield "std = [0.229, 0.224, 0.225]"
    yield f'layout = "{layout}"'
