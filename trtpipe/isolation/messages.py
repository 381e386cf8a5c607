"""Messages between a process, its fork server and the children the server forks; and how they are framed.

Arrays are not part of a message: it says where they lie in shared memory.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from pydantic import TypeAdapter

from trtpipe.artifact import Record, TensorSpec

if TYPE_CHECKING:
    import socket

#: Name, numpy's name of the dtype, shape, the offset of the values in bytes (strings are in the message itself), and
#: the axes in the order in which they lie in memory, from the outermost one.
ArrayRef: TypeAlias = tuple[str, str, tuple[int, ...], int | tuple[str, ...], tuple[int, ...]]
Action: TypeAlias = Literal["infer", "time", "open", "reducer", "reduce", "result"]

#: File handles that accompany a request for a child: its stream, its shared memory, its output.
HANDLES = 3
#: Most bytes of a request to the server, and of its reply.
LINE_BYTES = 1 << 16
_LENGTH = struct.Struct("=Q")


class ForkRequest(Record):
    """A request to the fork server: fork a child that opens a model or runs a task, or end a child.

    Attributes:
        opener: ``package.module:function``, called with ``model``, ``threads`` and ``few``; see
            ``remote_runner.ModelOpener``.
        task: ``package.module:function``, as for ``worker.call``.
        session: ``package.module:function``, called in the child's main thread with its stream and shared memory, to
            run the user's code.
        preload: modules that the server imports first, so that this child and later ones have them.
        confinement: what the child may read and write, as JSON; empty for everything the user may.
        scratch: the task's folder for temporary files; empty for the system's.
        end: the process id of the child to end.
    """

    opener: str = ""
    model: str = ""
    threads: int = 0
    few: bool = False
    task: str = ""
    session: str = ""
    preload: tuple[str, ...] = ()
    confinement: str = ""
    scratch: str = ""
    end: int = 0


class ForkReply(Record):
    """The child's process id, or the exit status of one that was ended."""

    number: int


class ModelRequest(NamedTuple):
    """A request to a child with an open model.

    Attributes:
        action: ``infer`` the feeds and return the outputs, or only the ``time`` it takes; ``open`` another model
            instead; load a ``reducer``, ``reduce`` the outputs of one feed, and return its ``result``.
        feeds: in shared memory.
        name: the other model's path, or the reducer's ``module:Class``.
        tensors: the names that the reducer is made from.
        few: whether the other model runs a few times only.
    """

    action: Action
    feeds: list[list[ArrayRef]]
    name: str = ""
    tensors: tuple[str, ...] = ()
    few: bool = False


class ModelReply(NamedTuple):
    """Outputs in shared memory, and the seconds that the runs took."""

    outputs: list[list[ArrayRef]]
    seconds: float


class Interface(Record):
    """An open model: its device, in words, and its inputs and outputs as the runtime names them."""

    device: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


MODEL_REQUEST, MODEL_REPLY = TypeAdapter(ModelRequest), TypeAdapter(ModelReply)


class MessageStream:
    """Messages over a stream between two processes: a length, then so many bytes.

    Args:
        limit: bytes that a message may have.
    """

    def __init__(self, stream: socket.socket, limit: int = 1 << 28) -> None:
        self._stream = stream
        self._limit = limit
        self._received = bytearray()

    def fileno(self) -> int:
        """The stream's handle."""
        return self._stream.fileno()

    def send(self, message: bytes) -> None:
        """Send a message.

        Raises:
            OSError: the other side has closed the stream.
        """
        self._stream.sendall(_LENGTH.pack(len(message)) + message)

    def received(self) -> bytes | None:
        """The next message if it has arrived in full.

        Raises:
            EOFError: the other side sends something other than messages.
        """
        size = _LENGTH.unpack_from(self._received)[0] if len(self._received) >= _LENGTH.size else 0
        if size > self._limit:
            raise EOFError
        end = _LENGTH.size + size
        if len(self._received) < max(end, _LENGTH.size + 1):
            return None
        message = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return message

    def poll(self) -> bytes | None:
        """Wait for bytes; the next message if it has arrived in full.

        Raises:
            EOFError: the other side has ended, or sends something other than messages.
        """
        if not (data := self._stream.recv(1 << 16)):
            raise EOFError
        self._received += data
        return self.received()

    def receive(self) -> bytes:
        """Wait for the next message; raises what ``poll`` raises."""
        message = self.received()
        while message is None:
            message = self.poll()
        return message
