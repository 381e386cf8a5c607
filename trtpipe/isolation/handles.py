"""Handles of files that code of the user's might close, and a new file might take the number of."""

from __future__ import annotations

import os


class Disconnected(BaseException):
    """A handle is no longer what it was. No ``Exception``, so that nothing takes it for an error of its own."""


class Handle:
    """A handle that is checked before each use.

    Args:
        number: of an open file, which must not be replaced while this object is used.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._file = self._identity()

    def number(self) -> int:
        """The handle.

        Raises:
            Disconnected: it was closed, or belongs to another file now.
        """
        if self._file is None or self._identity() != self._file:
            raise Disconnected
        return self._number

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.fstat(self._number)
        except OSError:
            return None
        return found.st_dev, found.st_ino
