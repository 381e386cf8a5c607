"""Messages between a process and its child that runs a function of the user: see ``user_process``, ``user_session``.

Arrays lie in shared memory, as for models.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from pydantic import TypeAdapter

from trtpipe.artifact import Record
from trtpipe.isolation.messages import ArrayRef
from trtpipe.isolation.surroundings import Surroundings

#: What an evaluation's dictionary may hold besides single numbers: the score of every sample.
PER_SAMPLE = "per_sample"
#: The parent asks for the ``next`` item of an iteration, has one forgotten (``close``), calls a function of ``outputs``
#: and labels (``score``), has one do the ``evaluate``, answers its call of ``run`` with ``outputs``, or asks what the
#: user's code ``read``.
Request: TypeAlias = Literal["next", "close", "score", "evaluate", "outputs", "read"]
#: The child has ``loaded`` the function; gives a ``feed`` by name, a single ``array``, or something ``unusable``; is at
#: the ``end``; gives ``numbers``; calls ``run``; says what was ``read`` (the text is an ``Observed``); or has
#: ``failed`` (the text is an ``Outcome``).
Reply: TypeAlias = Literal["loaded", "feed", "array", "unusable", "end", "numbers", "run", "read", "failed"]


class Start(Record):
    """The first message: the function, and the surroundings that it had in the parent.

    Attributes:
        source: ``path/file.py:function`` or ``package.module:function``.
        observe: whether to record what the user's code reads.
    """

    source: str
    surroundings: Surroundings
    observe: bool = False


class UserRequest(NamedTuple):
    """A request to the child.

    Attributes:
        number: of the iteration, counted from 0; of values that a score may have.
        slot: place for an item; one that holds an item the parent still reads is not named again.
    """

    action: Request
    arrays: tuple[list[ArrayRef], ...] = ()
    number: int = 0
    slot: int = 0


class UserReply(NamedTuple):
    """A reply of the child.

    Attributes:
        arrays: a feed, and the labels by themselves, where there are any.
        text: the reason, or the name of a type.
        number: of arguments that the function needs.
    """

    kind: Reply
    arrays: tuple[list[ArrayRef], ...] = ()
    text: str = ""
    number: int = 0


USER_REQUEST, USER_REPLY = TypeAdapter(UserRequest), TypeAdapter(UserReply)
