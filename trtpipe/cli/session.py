"""One invocation: what all its options add up to. Options go over files, files over defaults."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trtpipe.cli.listeners import Lines, LogFile, Settling, Several
from trtpipe.cli.packaging import PackageWords
from trtpipe.cli.text import complain
from trtpipe.errors import InputError, InternalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from trtpipe.api.arguments import CommonArguments, ModelArguments, PackageArguments
    from trtpipe.artifact import Record
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.recipe import CalibrationRecipe
    from trtpipe.config.settings import Settings
    from trtpipe.progress import Progress

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


@dataclass
class Session:
    """Filled by the options while Click reads the command line, then asked by the command.

    Attributes:
        verbosity: -1 quiet, 0 normal, 1 verbose.
        out: where the result goes; ``None`` if nowhere (or no longer in danger).
        shapes: shape option -> what it was given, each time it was used.
        auto_shapes: whether the data tells the shapes that are not given; those of the profile's file do not count.
        package: what ``package make`` was told.
    """

    debug: bool = False
    json: bool = False
    verbosity: int = 0
    cache_dir: Path | None = None
    jobs: int | None = None
    log: LogFile | None = None
    out: Path | None = None
    profile_file: Path | None = None
    recipe_file: Path | None = None
    simplify: bool = True
    allow_random: bool = False
    profile_overrides: list[Override] = field(default_factory=list)
    recipe_overrides: list[Override] = field(default_factory=list)
    shapes: dict[str, list[dict[str, tuple[int, ...]]]] = field(default_factory=dict)
    auto_shapes: bool = False
    package: PackageWords = field(default_factory=PackageWords)

    @property
    def output(self) -> Path:
        """``out``, where the command requires one."""
        if self.out is None:
            raise InternalError("a command without -o asked for its output")
        return self.out

    @property
    def settings(self) -> Settings:
        """The environment's settings, with ``--cache-dir`` and ``--jobs``."""
        from trtpipe import Settings

        settings = Settings.from_environment()
        return replace(settings, cache_dir=self.cache_dir or settings.cache_dir, jobs=self.jobs or settings.jobs)

    @property
    def profile(self) -> DeploymentProfile:
        """The deployment profile: options, over the file, over the defaults."""
        overrides = list(self.profile_overrides)
        if self.auto_shapes:
            overrides += [Override(("shapes",), (), "--shapes auto"), Override(("auto_shapes",), True, "--shapes auto")]
        if profiles := combined_shapes(self.shapes):
            overrides.append(Override(("shapes",), tuple(profiles), " ".join(self.shapes)))
        return profile_of(self.profile_file, overrides)

    @property
    def recipe(self) -> CalibrationRecipe:
        """The calibration recipe: options, over the file, over the defaults."""
        found = recipe_of(self.recipe_file, self.recipe_overrides)
        limits = (each.option for each in self.profile_overrides if each.at == ("accuracy", "max_drop"))
        if found.evaluation is None and (option := next(limits, "")):  # a gate that is asked for is not left out
            raise _no_evaluation(option)
        return found

    def learn(self, path: Path) -> None:
        """Take over what ``path`` (and, for a plan, the lowered graph beside it) says of itself: precision, back-end
        and target. That is stronger than the profile's file, and weaker than an option.
        """
        import trtpipe

        recorded = trtpipe.inspect(path).built_as()
        self.profile_overrides[:0] = [Override((key,), value, str(path)) for key, value in recorded.items()]

    @contextmanager
    def listening(self) -> Iterator[Progress]:
        """A listener on standard error, fit for what that is, and on the log file."""
        others: list[Progress] = [Settling()]
        if self.log is not None:
            others.append(Lines(self.log.write, verbosity=1))
        if self.verbosity >= 0 and sys.stderr.isatty():
            from trtpipe.views.live import RichProgress

            with RichProgress() as live:
                yield Several([live, *others])
        else:
            yield Several([Lines(complain, self.verbosity), *others])

    def request(self, progress: Progress) -> CommonArguments:
        """What all functions that run stages take."""
        return {"profile": self.profile, "recipe": self.recipe, "settings": self.settings, "progress": progress}

    def model_request(self, progress: Progress) -> ModelArguments:
        """What those take that start at the model."""
        return {
            "profile": self.profile, "recipe": self.recipe, "settings": self.settings, "progress": progress,
            "simplify": self.simplify, "allow_random": self.allow_random,
        }  # fmt: skip

    def package_request(self, progress: Progress) -> PackageArguments:
        """What ``make_package`` takes besides the build and the output."""
        return {**self.package.arguments(), "settings": self.settings, "progress": progress}


def profile_of(file: Path | None, overrides: Sequence[Override]) -> DeploymentProfile:
    """The deployment profile in force: the file's, with the overrides in their order, the last one winning.

    Raises:
        InputError: the file or an option is wrong.
    """
    from trtpipe.config.profile import DeploymentProfile

    base = {} if file is None else DeploymentProfile.load(file).model_dump(exclude_unset=True)
    return _merged(DeploymentProfile, base, overrides)


def recipe_of(file: Path | None, overrides: Sequence[Override]) -> CalibrationRecipe:
    """The calibration recipe in force. An evaluation folder without settings of its own is prepared like the
    calibration data.

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
        raise _no_evaluation(option)
    if not (evaluation.image or evaluation.audio) and Path(evaluation.source).is_dir():
        evaluation = evaluation.model_copy(update={"image": recipe.data.image, "audio": recipe.data.audio})
    return recipe.model_copy(update={"evaluation": evaluation})


def _no_evaluation(option: str) -> InputError:
    return InputError(f"{option}: there is no evaluation data", "name it with --eval-data DATA")


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
    from pydantic import TypeAdapter, ValidationError

    overrides = tuple(overrides)
    data: dict[str, Any] = dict(base)
    for override in overrides:
        _put(data, override.at, override.value)
    try:
        return TypeAdapter(model).validate_python(data)
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
