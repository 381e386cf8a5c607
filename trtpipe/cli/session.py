"""One invocation: what all its options add up to."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trtpipe.cli.listeners import Lines, LogFile, Several
from trtpipe.cli.overrides import Override, combined_shapes, profile_of, recipe_of
from trtpipe.cli.packaging import PackageWords
from trtpipe.cli.text import complain
from trtpipe.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trtpipe.api.arguments import CommonArguments, ModelArguments, PackageArguments
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.recipe import CalibrationRecipe
    from trtpipe.config.settings import Settings
    from trtpipe.progress import Progress


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
        return recipe_of(self.recipe_file, self.recipe_overrides)

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
        others = [] if self.log is None else [Lines(self.log.write, verbosity=1)]
        if self.verbosity >= 0 and sys.stderr.isatty():
            from trtpipe.cli.live import Live

            with Live() as live:
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
