"""Run this package: an example to start an application from.

    python predict.py --device cpu photo.jpg

It needs trtpipe with its extras runtime-cpu and, for images, images. On a GPU (--device cuda, the default) numpy and
the TensorRT that built the engine are enough for arrays.

A FILE is an image or a WAV file, where the package says how such become the input; an .npy file with the one input; or
an .npz file with an array for each input, named as it is, with the batch axis. Without a FILE the reference inputs of
the package are run.
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from trtpipe.errors import InputError, TrtpipeError
from trtpipe.reference.pytorch_outputs import read_reference
from trtpipe.runtime import LoadedModel, load

#: What numpy raises for a file that holds no arrays, or is cut short.
DAMAGED = (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict, and write what comes out; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="what to run the model on")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, or cpu")
    parser.add_argument("--package", default=Path(__file__).resolve().parent, help="default: the folder of this file")
    parser.add_argument("--policy", help="trust policy that the package has to meet")
    parser.add_argument("--identity", help="file with the identity that decrypts the package")
    given = parser.parse_args(arguments)
    try:
        with load(given.package, given.device, policy=given.policy, identity=given.identity) as model:
            for name, feed in feeds(model, given.files):
                for answer in answers(model, model(feed)):
                    sys.stdout.write(f"{name}: {answer}\n")
    except TrtpipeError as error:
        sys.stderr.write(f"error: {error.message}\n  try: {error.remedy}\n")
        return error.exit_code
    return 0


def feeds(model: LoadedModel, files: Sequence[str]) -> Iterator[tuple[str, object]]:
    """A name, and what the model is called with."""
    for file in files:
        yield file, arrays_in(file) if file.endswith((".npy", ".npz")) else file
    reference = model.model.reference
    if not files and reference is None:
        raise InputError("there are no reference inputs in this package", "name a FILE to run the model on")
    if not files and reference is not None:
        known, _ = read_reference(io.BytesIO(model.package.read(reference.file)), Path(reference.file))
        for index, feed in enumerate(known):
            yield f"reference input {index}", feed


def arrays_in(file: str) -> object:
    """The array of an .npy file, or those of an .npz file by their names."""
    try:
        with Path(file).open("rb") as stream:
            if file.endswith(".npy"):
                return np.load(stream, allow_pickle=False)
            with np.load(stream, allow_pickle=False) as arrays:
                return dict(arrays)
    except DAMAGED as error:
        raise InputError(f"{file}: no arrays can be read from it: {error}", "give a file of numpy") from error


def answers(model: LoadedModel, outputs: dict[str, np.ndarray]) -> Iterator[str]:
    """The best class of every sample where the package knows classes; else what each output is like."""
    scored = [each.output for each in model.model.postprocessing if each.classes]
    if model.classes and scored:
        for name in scored:
            for best in model.best_classes(outputs, name):
                yield f"{name}: " * (len(scored) > 1) + f"{best.name} ({best.score:.3g})"
        return
    for tensor in model.outputs:
        value = outputs[tensor.name]
        spread = f", {value.min():.4g} to {value.max():.4g}" if value.size and value.dtype.kind in "fiub" else ""
        yield " ".join(f"{tensor.name} {value.dtype}{list(value.shape)}{spread} {tensor.unit}".split())
