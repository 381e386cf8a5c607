"""Models that a repository has already: a model that is added must leave none that no longer fits its configuration.

All versions of a model share one ``config.pbtxt`` and its labels, and an ensemble fits the tensors of its models.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING

from trtpipe.delivery.triton_config import CONFIG
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from trtpipe.delivery.triton import Repository

#: What the files of a version, and those who send requests, depend on: fields of the configuration.
_SHARED = ("backend", "platform", "max_batch_size", "input", "output", "default_model_filename", "cc_model_filenames")
_KIND = re.compile(r'^(?:backend|platform): "(\w+)"', re.M)
_LABELS = re.compile(r'\blabel_filename: "([^"]*)"')
_MODELS = re.compile(r'\bmodel_name\s*:\s*"([^"]*)"')
#: Back-ends of models, as opposed to parts that are made around them.
_OF_MODELS = ("tensorrt", "onnxruntime")


def check_existing(made: Repository, out: Path) -> None:
    """Refuse to replace a model of another kind, or one that another version or an ensemble in ``out`` relies on.

    Raises:
        InputError: one is in the way, or ``out`` holds files and no model at all; the message names it.
    """
    models = chain(out.glob(f"*/{CONFIG}"), out.glob("*/[0-9]*/model.*"))
    if out.is_dir() and any(out.iterdir()) and not any(models):
        raise InputError(f"{out}: holds files, and is no model repository", "choose an empty or a new folder with -o")
    for name in made.models:
        config = out / name / CONFIG
        kinds = [_kind(path) for path in (config, made.files[f"{name}/{CONFIG}"])]
        if not kinds[0]:
            continue
        if kinds[0] != kinds[1] and not set(kinds) <= set(_OF_MODELS):
            raise InputError(
                f"{config.parent}: another model of that name, of {kinds[0]}, is there, and this one is of {kinds[1]}",
                "give the model another name in the file of --triton-settings",
            )
        theirs = {path.name: path for path in config.parent.iterdir()}
        ours = {path.removeprefix(f"{name}/"): source for path, source in made.files.items()}
        if _shared(theirs) == _shared(ours):
            continue
        for reliant in (*_other_versions(made, name, out), *_ensembles(made, name, out)):
            raise InputError(
                f"{config}: inputs, outputs, labels, batches or files are others than this model's, and {reliant} "
                f"relies on them",
                "give the model another name in the file of --triton-settings, or remove the old one first",
            )


def _kind(config: Path) -> str:
    found = _KIND.search(_text(config))
    return found[1] if found else ""


def _shared(files: Mapping[str, Path]) -> list[str]:
    """The shared fields of a model's configuration, and the labels of its outputs, of the ``files`` of its folder."""
    kept, inside = [], False
    for line in _text(files[CONFIG]).splitlines():
        if line[:1].isalpha():
            inside = re.split(r"\W", line, maxsplit=1)[0] in _SHARED
        if inside:
            kept.append(line)
    labels = _LABELS.findall("\n".join(kept))
    return [*kept, *(_text(files[name]) if name in files else "" for name in labels)]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _other_versions(made: Repository, name: str, out: Path) -> Iterator[str]:
    for path in sorted((out / name).iterdir()):
        inside = f"{name}/{path.name}/"
        if (
            path.is_dir()
            and path.name.isdigit()
            and not any(each.startswith(inside) for each in (*made.files, made.plan))
        ):
            yield f"version {path.name}"


def _ensembles(made: Repository, name: str, out: Path) -> Iterator[str]:
    for config in sorted(out.glob(f"*/{CONFIG}")):
        if config.parent.name not in made.models and name in _MODELS.findall(_text(config)):
            yield f"the ensemble {config.parent.name}"
