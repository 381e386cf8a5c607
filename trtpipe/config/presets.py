"""Recipes and profiles that come with trtpipe, by name: ``--calib imagenet``, ``--profile edge``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

from trtpipe.config.units import suggestion
from trtpipe.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping

PresetKind: TypeAlias = Literal["calib", "profiles"]
_SUFFIX = ".toml"
_WORDS: Mapping[PresetKind, str] = MappingProxyType({"calib": "recipe", "profiles": "profile"})
#: Those of the repository's example, which name its files.
_EXAMPLE = "digits"


def presets(kind: PresetKind) -> dict[str, Path]:
    """Name -> file, in the order of the names.

    Example:
        >>> "imagenet" in presets("calib")
        True
    """
    folder = Path(str(files("trtpipe"))) / "presets" / kind
    return {path.stem: path for path in sorted(folder.glob(f"*{_SUFFIX}")) if path.stem != _EXAMPLE}


def found(path: Path, kind: PresetKind) -> Path:
    """The file at ``path``; where there is none, that which comes with trtpipe under this name.

    Raises:
        RecipeError: it looks like a name, and nothing has it.

    Example:
        >>> found(Path("imagenet"), "calib").name
        'imagenet.toml'
    """
    if path.parent != Path() or path.suffix or path.exists():
        return path
    known = presets(kind)
    if path.name not in known:
        message = f"{path}: no such file, and no {_WORDS[kind]} of this name comes with trtpipe"
        raise RecipeError(message, suggestion(path.name, known, f"{_WORDS[kind]}s that come with trtpipe"))
    return known[path.name]
