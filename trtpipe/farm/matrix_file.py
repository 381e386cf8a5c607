"""What a matrix is made of: its file, and the cells that it stands for."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from trtpipe.backends.base import BACKENDS
from trtpipe.config.formats import Precision
from trtpipe.config.profile import Bytes, TargetName
from trtpipe.config.target import find_target
from trtpipe.config.tomlfile import load_toml
from trtpipe.config.user_record import UserRecord
from trtpipe.digest import sha256_json
from trtpipe.errors import InputError, RecipeError

#: More cells than any farm builds in a night; a slip in a file makes them quickly.
_MOST_CELLS = 100_000
_MOST_SHARDS = 64
_BACKEND = re.compile(r"(?P<flavor>[a-z][a-z-]*)(?: (?P<version>\d+(?:\.\d+)*))?")
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")


def _backend(text: str) -> str:
    found = _BACKEND.fullmatch(text)
    if found is None or found["flavor"] not in BACKENDS or found["flavor"] == "onnxruntime":
        raise ValueError(f"{text!r} is no back-end: write a flavor, such as 'tensorrt-rtx' or 'tensorrt 10.9'")
    return text


Name = Annotated[str, Field(min_length=1, max_length=100)]
Text = Annotated[str, Field(min_length=1)]
Backend = Annotated[str, AfterValidator(_backend)]


class MatrixModel(UserRecord):
    """A row of models: one, or several that share a GPU.

    Attributes:
        name: by default that of the (first) source's file, or of the factory.
        source: as ``build`` takes it; a path is relative to the matrix file.
        sources: several, in place of ``source``: a cell holds them all.
        profile: everything else about what to build; a TOML file.
        recipe: data and calibration; a TOML file, where no recipe of the matrix is used.
        calib_data, eval_data: override the recipe's.
    """

    name: Name | None = None
    source: Text | None = None
    sources: tuple[Text, ...] = ()
    profile: Text | None = None
    recipe: Text | None = None
    calib_data: Text | None = None
    eval_data: Text | None = None

    @model_validator(mode="after")
    def _one_way(self) -> MatrixModel:
        if (self.source is None) == (not self.sources):
            raise ValueError("give source, or sources for several models on one GPU")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The source, or the sources."""
        return (self.source,) if self.source is not None else self.sources

    @property
    def called(self) -> str:
        """Its name in cells."""
        first = self.parts[0]
        return self.name or (first.rpartition(":")[2] if ":" in first else Path(first).stem)


class MatrixRecipe(UserRecord):
    """A calibration recipe under a name."""

    name: Name
    file: Text


def _target(pattern: str) -> str:
    """A pattern of targets as cells have them, where it is a name of one."""
    try:
        return find_target(pattern).name
    except InputError:
        return pattern


class Pattern(UserRecord):
    """Cells, by shell patterns of what they are made of; what is left out matches all. A target has several names."""

    model: str = "*"
    recipe: str = "*"
    precision: str = "*"
    target: Annotated[str, AfterValidator(_target)] = "*"
    backend: str = "*"

    def matches(self, cell: Cell) -> bool:
        """Whether a cell is one of these."""
        pairs = (
            (cell.model.called, self.model),
            (cell.recipe_name, self.recipe),
            (str(cell.precision or ""), self.precision),
            (cell.target, self.target),
            (cell.backend, self.backend),
        )
        return all(fnmatchcase(value, pattern) for value, pattern in pairs)


class Extra(UserRecord):
    """Cells besides the product: of one model; what is left out takes all values of the matrix."""

    model: Name
    recipe: Name | None = None
    precision: Precision | None = None
    target: TargetName | None = None
    backend: Backend | None = None


class Matrix(UserRecord):
    """A matrix file.

    Attributes:
        models, recipes, precisions, targets, backends: the axes. An axis without values has one: what profile and
            recipe of the model say. A backend is a flavor, with the beginning of a version if that counts:
            ``tensorrt-rtx 1.7``.
        include, exclude: cells besides the product, and those of it that are left out.
        optional: cells that may fail without failing the matrix.
        shards: into how many parts calibration data is split; the result is the same.
        memory_budget: of one cell's GPU: weights and activations of all its models together.
        ship_limit: the most bytes that are sent to workers for one model or data set that lies on the driver alone.
    """

    models: Annotated[tuple[MatrixModel, ...], Field(min_length=1)]
    recipes: tuple[MatrixRecipe, ...] = ()
    precisions: tuple[Precision, ...] = ()
    targets: tuple[TargetName, ...] = ()
    backends: tuple[Backend, ...] = ()
    include: tuple[Extra, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    optional: tuple[Pattern, ...] = ()
    shards: Annotated[int, Field(ge=1, le=_MOST_SHARDS)] = 1
    memory_budget: Bytes | None = None
    ship_limit: Bytes = 2 << 30

    @model_validator(mode="after")
    def _consistent(self) -> Matrix:
        models = [model.called for model in self.models]
        recipes = [recipe.name for recipe in self.recipes]
        for kind, names in (("models", models), ("recipes", recipes)):
            name, count = next(iter(Counter(names).most_common(1)), ("", 0))
            if count > 1:
                raise ValueError(f"two {kind} are called {name!r}: give each a name of its own")
        for extra in self.include:
            if extra.model not in models:
                raise ValueError(f"include: no model is called {extra.model!r}")
            if extra.recipe is not None and extra.recipe not in recipes:
                raise ValueError(f"include: no recipe is called {extra.recipe!r}")
        return self


@dataclass(frozen=True)
class Cell:
    """One build, or one of several models for one GPU.

    Attributes:
        precision, recipe: ``None``: what the model's own files say.
        target, backend: empty: likewise, or the default of the machine.
        required: whether the matrix fails with it.
    """

    model: MatrixModel
    recipe: MatrixRecipe | None
    precision: Precision | None
    target: str
    backend: str
    required: bool = True

    @property
    def recipe_name(self) -> str:
        """The recipe's name; empty for the model's own."""
        return "" if self.recipe is None else self.recipe.name

    @property
    def name(self) -> str:
        """How people and folders call it."""
        words = (
            self.model.called,
            self.recipe_name,
            str(self.precision or ""),
            self.target,
            self.backend.replace(" ", "-"),
        )
        plain = "-".join(filter(None, words))
        safe = _UNSAFE.sub("_", plain).lstrip(".")
        return safe if safe == plain else f"{safe}-{sha256_json(list(words))[:8]}"

    @property
    def flavor(self) -> str:
        """The back-end's name, without a version."""
        return self.backend.partition(" ")[0]

    @property
    def version(self) -> str:
        """The beginning of the version that is wanted; empty for any."""
        return self.backend.partition(" ")[2]


def load_matrix(path: Path) -> Matrix:
    """Read a matrix file.

    Raises:
        RecipeError: the file or a key in it is wrong; the message names both.
    """
    return load_toml(path, Matrix)


def cells_of(matrix: Matrix, path: Path) -> tuple[Cell, ...]:
    """The cells of a matrix, in the order of its file.

    Raises:
        RecipeError: there are none, or too many; or two cannot be told apart.
    """
    axes = (
        matrix.models,
        matrix.recipes or (None,),
        matrix.precisions or (None,),
        matrix.targets or ("",),
        matrix.backends or ("",),
    )
    if (count := _product(axes)) > _MOST_CELLS:
        raise RecipeError(f"{path}: {count:,} cells, {_MOST_CELLS:,} at most", "split the file")
    product = (Cell(*values) for values in itertools.product(*axes))
    used: set[Pattern] = set()
    kept = [cell for cell in product if not _matching(cell, matrix.exclude, used)]
    found = dict.fromkeys((*kept, *(cell for extra in matrix.include for cell in _extra(extra, matrix))))
    if not found:
        raise RecipeError(f"{path}: exclude leaves no cell", "correct 'exclude'")
    cells = tuple(replace(cell, required=not _matching(cell, matrix.optional, used)) for cell in found)
    for key, patterns in (("exclude", matrix.exclude), ("optional", matrix.optional)):
        for index, pattern in enumerate(patterns):
            if pattern not in used:
                wanted = ", ".join(
                    f"{name} {value!r}" for name, value in pattern.model_dump(exclude_defaults=True).items()
                )
                raise RecipeError(
                    f"{path}: {key}.{index}: no cell of the axes has {wanted}", "correct it, or take it away"
                )
    names: dict[str, Cell] = {}
    for cell in cells:
        if names.setdefault(cell.name, cell) != cell:
            raise RecipeError(f"{path}: two cells are called {cell.name}", "give models and recipes other names")
    return cells


def _product(axes: Sequence[Sequence[object]]) -> int:
    count = 1
    for axis in axes:
        count *= len(axis)
    return count


def _extra(extra: Extra, matrix: Matrix) -> Iterator[Cell]:
    model = next(each for each in matrix.models if each.called == extra.model)
    recipes = tuple(each for each in matrix.recipes if extra.recipe in (None, each.name)) or (None,)
    precisions = (extra.precision,) if extra.precision is not None else matrix.precisions or (None,)
    targets = (extra.target,) if extra.target is not None else matrix.targets or ("",)
    backends = (extra.backend,) if extra.backend is not None else matrix.backends or ("",)
    for values in itertools.product(recipes, precisions, targets, backends):
        yield Cell(model, *values)


def _matching(cell: Cell, patterns: Sequence[Pattern], used: set[Pattern]) -> bool:
    """Whether a pattern matches; those that do are noted."""
    found = [pattern for pattern in patterns if pattern.matches(cell)]
    used.update(found)
    return bool(found)
