"""Which nodes a user means."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Without one of these a shell pattern matches itself alone. Hundreds of names are compared quickly that way.
_WILD = re.compile(r"[*?[]")


def pattern_of(name: str, patterns: Iterable[str]) -> str | None:
    """The first of ``patterns`` that means the node ``name``: its name as it stands, brackets and all, or a shell
    pattern that matches it.
    """
    for pattern in patterns:
        if name == pattern or (_WILD.search(pattern) and fnmatchcase(name, pattern)):
            return pattern
    return None
