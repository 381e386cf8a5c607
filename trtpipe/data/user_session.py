"""The child's side of ``user_process``: loads a function of the user, and calls it whenever the parent asks."""

from __future__ import annotations

import inspect
import numbers
import os
import select
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy import asarray, dtype, float64
from pydantic_core import PydanticSerializationError

from trtpipe.config.units import format_bytes
from trtpipe.data.user_messages import PER_SAMPLE, USER_REPLY, USER_REQUEST, Start, UserReply
from trtpipe.data.usercode import load_function, running
from trtpipe.errors import InputError
from trtpipe.isolation.exit_status import DISCONNECTED_STATUS, Outcome
from trtpipe.isolation.file_tracking import FileTracker
from trtpipe.isolation.handles import Disconnected, Handle
from trtpipe.isolation.linux import machine_memory
from trtpipe.isolation.shared_arrays import packed_size

if TYPE_CHECKING:
    from collections.abc import Generator

    from trtpipe.artifact import Feed
    from trtpipe.data.user_messages import UserRequest
    from trtpipe.data.usercode import UserFunction
    from trtpipe.isolation.messages import ArrayRef, MessageStream
    from trtpipe.isolation.shared_arrays import SharedMemory

Arrays: TypeAlias = "tuple[list[ArrayRef], ...]"
#: Numbers by name that an evaluation may give.
_MOST_NAMES = 1000
#: Kinds of arrays that numpy would make numbers of all the same: texts, bytes, dates, complex numbers.
_NO_NUMBERS = "USMmc"
_METRIC = "run the function by itself and fix it"
_END = object()


def serve(messages: MessageStream, memory: SharedMemory) -> None:
    """Answer requests until the parent closes the stream, which ends in an EOFError."""
    start = Start.model_validate_json(messages.receive())
    start.surroundings.take_over()
    session = _Session(start.source, messages, memory)
    try:
        with session.tracker if start.observe else nullcontext():
            session.load()
            while True:
                session.answer()
    except Disconnected:
        os._exit(DISCONNECTED_STATUS)


class _Session:
    """One function, its iterations and its calls."""

    def __init__(self, source: str, messages: MessageStream, memory: SharedMemory) -> None:
        self._source = source
        self._messages = messages
        self._memory = memory
        self._handles = Handle(messages.fileno()), Handle(memory.fileno())
        self._function: UserFunction | None = None
        self._iterations: dict[int, Generator[Any, None, None]] = {}
        self._started = 0
        self._regions = _Regions()
        self._most = machine_memory()
        self._waiting: deque[UserRequest] = deque()
        self.tracker = FileTracker()

    def load(self) -> None:
        self._send(self._reply_of(self._load))

    def answer(self) -> None:
        """Handle one request."""
        request = self._receive()
        actions: dict[str, Callable[[UserRequest], UserReply]] = {
            "next": self._next,
            "close": self._close,
            "score": self._score,
            "evaluate": self._evaluate,
            "read": self._read,
        }
        self._send(self._reply_of(lambda: actions[request.action](request)))

    def _reply_of(self, action: Callable[[], UserReply]) -> bytes:
        try:
            return self._encoded(action())
        except Disconnected:
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, the parent gets it
            return self._encoded(UserReply("failed", text=Outcome.of_error(error, "shared memory").model_dump_json()))

    def _encoded(self, reply: UserReply) -> bytes:
        try:
            return USER_REPLY.dump_json(reply)
        except PydanticSerializationError as error:  # lone surrogates
            what = "a name or a text that is not valid Unicode"
            raise InputError(f"{self._source} gave {what}", "give valid names and texts") from error

    def _send(self, message: bytes) -> None:
        for handle in self._handles:
            handle.number()
        self._messages.send(message)

    def _receive(self) -> UserRequest:
        if self._waiting:
            return self._waiting.popleft()
        for handle in self._handles:
            handle.number()
        return USER_REQUEST.validate_json(self._messages.receive())

    def _look_for_more(self) -> None:
        """Take the requests that have arrived: an iteration that is given up need make no more items."""
        arrived = select.poll()
        arrived.register(self._messages.fileno(), select.POLLIN)
        while (message := self._messages.received()) is not None or arrived.poll(0):
            message = message or self._messages.poll()
            if message is not None:
                self._waiting.append(USER_REQUEST.validate_json(message))

    def _pack(self, feeds: list[Feed], offset: int = 0) -> Arrays:
        for handle in self._handles:
            handle.number()
        return tuple(self._memory.pack(feeds, offset))

    def _load(self) -> UserReply:
        self._function = load_function(self._source)
        return UserReply("loaded", number=_required(self._function.call))

    def _next(self, request: UserRequest) -> UserReply:
        assert self._function is not None
        if request.number >= self._started:
            self._iterations[request.number] = self._function.items()
            self._started = request.number + 1
        self._look_for_more()
        if any(each.action == "close" and each.number == request.number for each in self._waiting):
            return UserReply("end")
        item = next(self._iterations.get(request.number, iter(())), _END)
        return UserReply("end") if item is _END else self._item(item, request)

    def _close(self, request: UserRequest) -> UserReply:
        if (iteration := self._iterations.pop(request.number, None)) is not None:
            assert self._function is not None
            with running(f"{self._source} failed when it was closed:", self._function.folder, _METRIC):
                iteration.close()
            self._regions.release(request.number)
        return UserReply("end")

    def _item(self, item: Any, request: UserRequest) -> UserReply:
        """A feed, or ``(feed, labels)``; the user's objects may run code of theirs when they are made arrays."""
        assert self._function is not None
        feed, labels = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
        with running(f"{self._source}: an item cannot be read:", self._function.folder, "yield numpy arrays"):
            try:
                if isinstance(feed, Mapping):
                    kind, arrays = "feed", {str(name): _array(value) for name, value in feed.items()}
                elif hasattr(feed, "__array__") or isinstance(feed, (list, int, float)):
                    kind, arrays = "array", {"": _array(feed)}
                else:
                    return UserReply("unusable", text=type(feed).__name__)
                rest = [] if labels is None else [{"": _array(labels)}]
            except (TypeError, ValueError, RuntimeError) as error:
                return UserReply("unusable", text=f"not arrays of numbers: {error}", number=1)
        feeds = [arrays, *rest]
        if (size := packed_size(feeds)) > self._most:
            raise InputError(f"{self._source}: an item of {format_bytes(size)}", "yield what fits into memory")
        offset = self._regions.place(request.number, request.slot, size)
        return UserReply("feed" if kind == "feed" else "array", self._pack(feeds, offset))

    def _score(self, request: UserRequest) -> UserReply:
        """Call ``metric(outputs, labels)`` on copies, so that what it writes to them changes nothing."""
        assert self._function is not None
        outputs, labels = (self._memory.unpack(each, copy=True) for each in request.arrays)
        with running(f"{self._source} raised", self._function.folder, _METRIC):
            found = self._function.call(outputs, labels.get(""))
            values = self._numbers(found, request.number, f"{type(found).__name__}, not numbers")
        return UserReply("numbers", self._pack([{"": values}]))

    def _read(self, request: UserRequest) -> UserReply:
        return UserReply("read", text=self.tracker.observed().to_line())

    def _numbers(self, found: Any, most: int, otherwise: str) -> np.ndarray:
        try:
            if asarray(found).dtype.kind in _NO_NUMBERS:
                raise TypeError
            values = np.atleast_1d(asarray(found, float64)).ravel()
        except (TypeError, ValueError):
            raise InputError(f"{self._source} returned {otherwise}", _METRIC) from None
        if values.size > most:
            raise InputError(f"{self._source} returned {values.size:,} scores for {most:,} samples", _METRIC)
        return values

    def _evaluate(self, request: UserRequest) -> UserReply:
        """Call ``evaluate(run)``, whose ``run`` asks the parent."""
        assert self._function is not None

        def run(feed: Mapping[str, Any]) -> Feed:
            arrays = {str(name): _array(value) for name, value in feed.items()}
            self._send(self._encoded(UserReply("run", self._pack([arrays]))))
            return self._memory.unpack(self._receive().arrays[0], copy=True)

        with running(f"{self._source} raised", self._function.folder, _METRIC):
            found = self._function.call(run)
            if not isinstance(found, Mapping):
                raise InputError(
                    f"{self._source} returned {type(found).__name__}, not a dictionary of numbers", _METRIC
                )
            single = {str(name): float(value) for name, value in found.items() if isinstance(value, numbers.Real)}
            if len(single) > _MOST_NAMES:
                raise InputError(f"{self._source} returned {len(single):,} numbers by name", _METRIC)
            arrays = {name: asarray(value, float64) for name, value in single.items()}
            rest: list[Feed] = []
            if PER_SAMPLE in found:
                otherwise = f"{PER_SAMPLE!r} that holds no numbers"
                rest = [{PER_SAMPLE: self._numbers(found[PER_SAMPLE], request.number, otherwise)}]
        return UserReply("numbers", self._pack([arrays, *rest]))


class _Regions:
    """Parts of the shared memory, one for each slot of each iteration: the parent may not have read the others yet."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], tuple[int, int]] = {}
        self._free: list[tuple[int, int]] = []
        self._end = 0

    def place(self, number: int, slot: int, size: int) -> int:
        """The offset of ``size`` bytes for a slot."""
        region = self._held.get((number, slot), (0, 0))
        if region[1] < size:
            self._free.append(region)
            region = next((each for each in self._free if each[1] >= size), (self._end, size))
            if region in self._free:
                self._free.remove(region)
            else:
                self._end += size
            self._held[number, slot] = region
        return region[0]

    def release(self, number: int) -> None:
        """Give up the regions of an iteration."""
        for key in [key for key in self._held if key[0] == number]:
            self._free.append(self._held.pop(key))


def _array(value: Any) -> np.ndarray:
    """Whatever numpy takes as an array of numbers or texts.

    Raises:
        TypeError, ValueError, RuntimeError: it is none.
    """
    array = asarray(value)
    if array.dtype.kind == "O" and not all(isinstance(each, str) for each in array.ravel()):
        raise TypeError(f"{type(value).__name__} holds {array.dtype} elements")
    if array.dtype.kind not in "OSU" and dtype(array.dtype.name) != array.dtype:
        array = array.astype(array.dtype.newbyteorder("="))
        if dtype(array.dtype.name) != array.dtype:
            raise TypeError(f"{array.dtype} elements")
    return array


def _required(function: Callable[..., Any]) -> int:
    """How many parameters have no default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
