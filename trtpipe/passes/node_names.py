"""Names of nodes: which a user means; and the user's line that a node comes from."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Under this key of a node's metadata stands the user's line of PyTorch code, ``file.py:12``, where it is known.
SOURCE_LINE = "trtpipe.line"
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
