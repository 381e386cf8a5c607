"""Options over files over defaults: how a profile and a recipe come to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trtpipe.artifact import Record
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.recipe import CalibrationRecipe

    M = TypeVar("M", bound=Record)

#: Which bounds of a range each option gives.
BOUNDS: dict[str, tuple[str, ...]] = {
    "--min-shapes": ("min",),
    "--opt-shapes": ("opt",),
    "--max-shapes": ("max",),
    "--shapes": ("min", "opt", "max"),
}


@dataclass(frozen=True)
class Override:
    """One value from the command line.

    Attributes:
        at: where it goes, key by key (``("build", "opt_level")``).
        option: what the user typed, for messages.
    """

    at: tuple[str, ...]
    value: object
    option: str


def profile_of(file: Path | None, overrides: Sequence[Override]) -> DeploymentProfile:
    """The deployment profile in force: the file's, with the overrides in their order, the last one winning.

    Raises:
        InputError: the file or an option is wrong.
    """
    from trtpipe.config.profile import DeploymentProfile

    base = {} if file is None else DeploymentProfile.load(file).model_dump(exclude_unset=True)
    return _merged(DeploymentProfile, base, overrides)


def recipe_of(file: Path | None, overrides: Sequence[Override]) -> CalibrationRecipe:
    """The calibration recipe in force. An evaluation folder of images without settings of its own is prepared like
    the calibration images.

    Raises:
        InputError: the file or an option is wrong.
    """
    from trtpipe.config.recipe import CalibrationRecipe

    base = {} if file is None else CalibrationRecipe.load(file).model_dump(exclude_unset=True)
    recipe = _merged(CalibrationRecipe, base, overrides)
    evaluation = recipe.evaluation
    if evaluation is None:
        return recipe
    if not evaluation.source and not evaluation.own:
        option = next((o.option for o in overrides if o.at[0] == "evaluation"), "[evaluation]")
        raise InputError(f"{option}: there is no evaluation data", "name it with --eval-data DATA")
    if evaluation.image is None and Path(evaluation.source).is_dir():
        evaluation = evaluation.model_copy(update={"image": recipe.data.image})
    return recipe.model_copy(update={"evaluation": evaluation})


def combined_shapes(given: Mapping[str, Sequence[Mapping[str, tuple[int, ...]]]]) -> list[dict[str, dict[str, Any]]]:
    """Optimization profiles from the shape options.

    An option used again for other inputs adds them to the same profile; an input named again begins the next one.

    Args:
        given: option -> one mapping of input names to dimensions for every time it was used.

    Raises:
        InputError: a range is incomplete, or a bound is given twice.
    """
    profiles = {option: _profiles(each) for option, each in given.items()}
    count = max((len(each) for each in profiles.values()), default=0)
    return [_combined(profiles, number) for number in range(count)]


def _profiles(given: Sequence[Mapping[str, tuple[int, ...]]]) -> list[dict[str, tuple[int, ...]]]:
    """What one option gives for each profile."""
    found: list[dict[str, tuple[int, ...]]] = []
    for each in given:
        if not found or found[-1].keys() & each.keys():
            found.append({})
        found[-1].update(each)
    return found


def _combined(given: Mapping[str, Sequence[Mapping[str, tuple[int, ...]]]], number: int) -> dict[str, dict[str, Any]]:
    ranges: dict[str, dict[str, Any]] = {}
    for option, each in given.items():
        for name, dims in (each[number] if number < len(each) else {}).items():
            for bound in BOUNDS[option]:
                if bound in ranges.setdefault(name, {}):
                    raise InputError(
                        f"{option}: the {bound} shape of input {name!r} is given twice",
                        "use --shapes for an input of one size, or --min-shapes, --opt-shapes and --max-shapes",
                    )
                ranges[name][bound] = dims
    for name, found in ranges.items():
        if missing := [bound for bound in ("min", "opt", "max") if bound not in found]:
            example = "x".join(map(str, next(iter(found.values()))))
            which = f" of optimization profile {number + 1}" if number else ""
            raise InputError(
                f"input {name!r}{which} has no {' and no '.join(missing)} shape",
                "add " + " and ".join(f"--{bound}-shapes {name}:{example}" for bound in missing) + ", or other sizes",
            )
    return ranges


def _merged(model: type[M], base: Mapping[str, Any], overrides: Iterable[Override]) -> M:
    from pydantic import ValidationError

    overrides = tuple(overrides)
    data: dict[str, Any] = dict(base)
    for override in overrides:
        _put(data, override.at, override.value)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = tuple(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        option = next((o.option for o in overrides if where[: len(o.at)] == o.at), "")
        at_odds = [o.option for o in overrides if where and o.at[:-1] == where and o.at[-1] in message.split()]
        option = option or ", ".join(at_odds) or ".".join(where)
        named = "".join(f"input {part!r}: " for part in where[2:3] if where[0] == "shapes")
        value = f" (it is {first['input']!r})" if isinstance(first["input"], (str, int, float)) else ""
        raise InputError(f"{option}: {named}{message}", f"correct {option}{value}") from error


def _put(data: dict[str, Any], at: tuple[str, ...], value: object) -> None:
    """Set a nested key, leaving the tables that came from a file as they are."""
    key, *rest = at
    if rest:
        table = dict(data.get(key) or {})
        _put(table, tuple(rest), value)
        data[key] = table
    else:
        data[key] = value
