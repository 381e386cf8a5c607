"""One holder of a name among all machines, also if the holder dies.

A lease is an object that its holder writes again and again, each time with other content. Who waits looks at its tag:
one that did not change for the whole term, on the waiter's own clock that no one sets (``time.monotonic``), belongs to
a holder that is gone, and is replaced on the condition that the tag is still the same. So clocks of machines are never
compared, and of all who wait just one gets it. (The scheme of Amazon's lock client for DynamoDB.)

A holder that was only asleep may find that another one has taken over. Then both do the same work, and the store
keeps what came first.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from trtpipe.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from trtpipe.remote.bucket import Bucket

_LIMIT = 4096
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 1.0


class Lease:
    """Held from ``__enter__`` to ``__exit__``, and renewed meanwhile.

    Args:
        term: after so many seconds without renewal another machine may take over.
        waiting: called once, if the lease is held by another one.

    Attributes:
        taken_over: whether the holder before has not released it.
    """

    def __init__(self, bucket: Bucket, name: str, term: float, waiting: Callable[[], None]) -> None:
        self._bucket = bucket
        self._name = name
        self._term = term
        self._waiting = waiting
        self._id = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}"
        self._count = 0
        self._tag = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease {name}", daemon=True)
        self.taken_over = False

    def __enter__(self) -> Lease:
        self._acquire()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._tag:
            with suppress(HostError):  # it ends by itself
                found = self._bucket.get(self._name, _LIMIT)
                if found is not None and found.tag == self._tag:
                    self._bucket.delete(self._name)

    def _acquire(self) -> None:
        seen, since, pause = "", 0.0, _FIRST_LOOK
        while True:
            tag = self._bucket.create(self._name, self._content())
            if tag is not None:
                break
            found = self._bucket.get(self._name, _LIMIT)
            if found is None:  # released meanwhile
                continue
            if not seen:
                self._waiting()
            if found.tag != seen:
                seen, since = found.tag, time.monotonic()
            elif time.monotonic() - since > self._term:
                tag = self._bucket.replace(self._name, self._content(), seen)
                if tag is not None:
                    self.taken_over = True
                    break
            time.sleep(random.uniform(pause / 2, pause))  # noqa: S311  no secret
            pause = min(1.5 * pause, _LONGEST_LOOK, self._term / 4)
        self._tag = tag

    def _content(self) -> bytes:
        self._count += 1
        return f"{self._id} {self._count}\n".encode()

    def _renew(self) -> None:
        while not self._ended.wait(self._term / 4):
            try:
                tag = self._bucket.replace(self._name, self._content(), self._tag)
            except HostError:  # the next time, if it is not too late
                continue
            if tag is None:  # taken over
                self._tag = ""
                return
            self._tag = tag
