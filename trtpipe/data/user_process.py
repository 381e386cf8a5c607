"""A function of the user in a child process: it can crash, end or block that process, and change nothing here.

The child is isolated, not confined: files, network, environment and processes of its own are the user's. It is a fork
of the server that has imported what it needs, and arrays lie in shared memory, so that the detour costs little.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from trtpipe.artifact import Observed
from trtpipe.config.settings import Settings
from trtpipe.data.user_messages import USER_REPLY, USER_REQUEST, Start, UserRequest
from trtpipe.errors import HostError, InputError, UserCodeError
from trtpipe.isolation.exit_status import Outcome, raise_from
from trtpipe.isolation.fork_client import Child
from trtpipe.isolation.messages import ForkRequest
from trtpipe.isolation.surroundings import Surroundings
from trtpipe.isolation.worker import user_limits
from trtpipe.progress import NullProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import numpy as np

    from trtpipe.artifact import Feed
    from trtpipe.data.user_messages import UserReply
    from trtpipe.isolation.worker import Limits
    from trtpipe.progress import Progress

#: Items that the child may be ahead, and their bytes: it goes on while this process, or another, has the processor.
_AHEAD, _AHEAD_BYTES = 8, 64 << 20
_SESSION = "trtpipe.data.user_session:serve"


class Unusable(NamedTuple):
    """What a function yielded in place of a feed: the name of its type, or why it is no arrays of numbers."""

    reason: str
    arrays: bool


class UserProcess:
    """A function of the user, loaded in a child.

    Args:
        source: ``path/file.py:function`` or ``package.module:function``.
        limits: default: those of the environment.
        observe: whether to record what it reads; see ``read``.
        progress: ends the child when it is stopped.

    Attributes:
        label: the source without folders, for reports.
        needed: how many arguments the function needs.

    Raises:
        InputError: there is no such function, or loading it fails or ends the child.
        HostError: no child can be started.
    """

    def __init__(
        self, source: str, limits: Limits | None = None, *, observe: bool = False, progress: Progress | None = None
    ) -> None:
        path, _, name = source.rpartition(":")
        self.source = source
        self.label = f"{Path(path).name}:{name}"
        self._lock = threading.RLock()
        self._iterations = count()
        self._asked: deque[int] = deque()
        self._arrived: dict[int, deque[UserReply]] = {}
        request = ForkRequest(session=_SESSION, preload=(_SESSION.partition(":")[0],))
        limits = limits or user_limits(Settings.from_environment())
        try:
            self._child = Child(request, limits, progress or NullProgress(), source)
        except OSError as error:
            raise HostError(
                f"cannot start a process for {source}: {error.strerror or 'it ended at once'}",
                "free memory and close files, then run again",
            ) from error
        weakref.finalize(self, self._child.abandon)
        start = Start(source=source, surroundings=Surroundings.here(), observe=observe)
        loading = f"loading {Path(path).name}"
        self._child.send(start.model_dump_json().encode(), loading)
        self.needed = self._receive(loading).number

    def read(self) -> Observed:
        """What the function has read so far, beyond what it was given."""
        with self._lock:
            return Observed.model_validate_json(self._ask(UserRequest("read"), "telling what it read").text)

    def stop(self) -> None:
        """End the process, whatever it does; from any thread."""
        self._child.kill()

    def items(self) -> Generator[Any, None, None]:
        """Call the function and yield its items, as a function here would; arrays are valid until the next one.

        Raises:
            InputError: the user's code raised, ended its process, or reached a limit.
        """
        iteration, asked, ahead = next(self._iterations), 0, 1
        with self._lock:
            self._arrived[iteration] = deque()
        try:
            for index in count():
                for position in range(asked, index + ahead):
                    self._ask_for(UserRequest("next", number=iteration, slot=position % ahead))
                asked = max(asked, index + ahead)
                if (reply := self._next(iteration, f"yielding sample {index}")).kind == "end":
                    return
                item, size = self._item(reply)
                yield item
                if not index:
                    ahead = max(1, min(_AHEAD, _AHEAD_BYTES // max(size, 1)))
        finally:
            self._forget(iteration)

    def score(self, outputs: Feed, labels: np.ndarray | None, most: int) -> np.ndarray:
        """``metric(outputs, labels)``: float64, ``most`` values or fewer; raises what ``items`` raises."""
        with self._lock:
            arrays = self._child.memory.pack([outputs, {} if labels is None else {"": labels}])
            reply = self._ask(UserRequest("score", tuple(arrays), most), "measuring")
            return self._child.memory.unpack(reply.arrays[0], copy=True)[""]

    def evaluate(self, run: Callable[[Feed], Feed], most: int) -> tuple[Mapping[str, float], np.ndarray | None]:
        """``evaluate(run)``: its numbers by name, and the score of every sample where it gives them: ``most`` or fewer.

        Raises:
            TrtpipeError: what ``run`` raises, and what ``items`` raises.
        """
        with self._lock:
            memory, request = self._child.memory, UserRequest("evaluate", number=most)
            while (reply := self._ask(request, "evaluating")).kind == "run":
                outputs = run(memory.unpack(reply.arrays[0], copy=True))
                request = UserRequest("outputs", tuple(memory.pack([outputs])))
            single, *rest = (memory.unpack(arrays, copy=True) for arrays in reply.arrays)
            scores = next(iter(rest[0].values())) if rest else None
            return {name: float(value) for name, value in single.items()}, scores

    def _item(self, reply: UserReply) -> tuple[Any, int]:
        """What the function yielded, and its bytes."""
        if reply.kind == "unusable":
            return Unusable(reply.text, arrays=bool(reply.number)), 0
        feed, *labels = (self._child.memory.unpack(arrays, copy=False) for arrays in reply.arrays)
        found = feed if reply.kind == "feed" else feed[""]
        size = sum(value.nbytes for value in feed.values())
        return (found, labels[0][""]) if labels else found, size

    def _ask_for(self, request: UserRequest) -> None:
        """Send a request whose reply comes in its turn."""
        with self._lock:
            self._asked.append(request.number)
            self._child.offer(USER_REQUEST.dump_json(request))

    def _next(self, iteration: int, what: str) -> UserReply:
        """The next reply to a request of an iteration; those to others before it are kept for them."""
        with self._lock:
            while not self._arrived[iteration]:
                self._take(what)
            return self._checked(self._arrived[iteration].popleft(), what)

    def _take(self, what: str) -> None:
        """Wait for a reply, and keep it for the iteration that asked."""
        try:
            reply = USER_REPLY.validate_json(self._child.receive(what))
        except ValidationError as error:
            raise self._garbled() from error
        self._arrived.get(self._asked.popleft(), deque()).append(reply)

    def _forget(self, iteration: int) -> None:
        """End an iteration and wait until it has: the child makes no item that was asked for in advance any more."""
        with self._lock, suppress(UserCodeError):  # of a child that has ended: it is said where it is missed
            self._ask_for(UserRequest("close", number=iteration))
            while iteration in self._asked:
                self._take("being closed")
            self._checked(self._arrived.pop(iteration)[-1], "being closed")

    def _ask(self, request: UserRequest, what: str) -> UserReply:
        with self._lock:
            self._child.send(USER_REQUEST.dump_json(request), what)
            return self._receive(what)

    def _receive(self, what: str) -> UserReply:
        try:
            return self._checked(USER_REPLY.validate_json(self._child.receive(what)), what)
        except ValidationError as error:
            raise self._garbled() from error

    def _checked(self, reply: UserReply, what: str) -> UserReply:
        if reply.kind == "failed":
            raise_from(Outcome.model_validate_json(reply.text), f"{self.source} was {what}")
        return reply

    def _garbled(self) -> UserCodeError:
        return UserCodeError(f"{self.source} wrote to files that it had not opened", "open files by name")


def no_feed(where: str, found: Unusable, inputs: list[str]) -> InputError:
    """The error for something that is no feed."""
    if found.arrays:
        return InputError(f"{where}: {found.reason}", "yield numpy arrays")
    return InputError(
        f"{where}: the function yielded {found.reason}, which is not a feed for inputs {', '.join(inputs)}",
        "yield a dict input name -> array, or (dict, labels); or an array, for a model with one input",
    )
