"""What the scheduler wants from those who do the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.farm.tasks import Offer, Task


@dataclass(frozen=True)
class Ended:
    """A task that is over.

    Attributes:
        number: the task's.
        reply: a ``TaskReply`` as JSON; ``None`` where its worker died.
        why: how the worker died.
    """

    number: int
    reply: str | None
    why: str = ""


class Workers(Protocol):
    """Do tasks, in any order."""

    def offers(self) -> tuple[Offer, ...]:
        """What there is: one entry for each kind of worker."""

    def room(self) -> int:
        """How many more tasks may be submitted now."""

    def submit(self, task: Task) -> None:
        """Have a worker do it that has what the task needs."""

    def wait(self) -> Sequence[Ended]:
        """Tasks that are over: at least one, if any was submitted and is not.

        Raises:
            HostError: nobody is left to work.
        """

    def close(self) -> None:
        """End what is running."""
