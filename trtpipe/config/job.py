"""A job: everything a user asked for, resolved and frozen, and what a stage finds on its table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from trtpipe.config.build_request import BuildRequest
from trtpipe.config.settings import Settings

if TYPE_CHECKING:
    from trtpipe.config.target import Target

Role: TypeAlias = Literal["calibration-data", "evaluation-data"]
#: Gives feeds from the start whenever it is called.
Feeds: TypeAlias = "Callable[[], Iterable[object]]"


@dataclass(frozen=True)
class Job(BuildRequest):
    """What to do: the request, and what no settings record may see.

    Attributes:
        feeds: data that the caller holds, by its role, in place of what the recipe names.
        settings: what the environment decides; never part of a key. See ``runtime``.
    """

    settings: Settings = field(kw_only=True)
    feeds: Mapping[Role, Feeds] = field(default_factory=dict)

    def for_target(self, target: Target, together: tuple[Target, ...] = ()) -> Job:
        """This job, narrowed to one target, whose plan may also serve others."""
        return replace(self, target=target, together=together if target in together and len(together) > 1 else ())

    @property
    def runtime(self) -> Settings:
        """The machine's part, with the limits that the profile sets for the build of an engine."""
        build = self.profile.build
        return replace(self.settings, engine_seconds=build.time_limit, engine_memory=build.memory_limit)
