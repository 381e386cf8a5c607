"""A worker process of this machine: tasks come as lines of JSON, and replies go as such.

It ends when its driver does, at once: what it has not stored is begun again by another one.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from trtpipe.isolation.linux import end_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> NoReturn:
    """Work until there is nothing more to read.

    Args:
        arguments: the process id of the driver.
    """
    end_with_parent(int(arguments[0]))
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries and the user's code print is no reply
    from trtpipe.farm.perform import perform_text

    try:
        for line in sys.stdin:
            replies.write(perform_text(line).replace("\n", " ") + "\n")
            replies.flush()
    except KeyboardInterrupt:  # a terminal sends it to the driver's whole group; the driver says so
        os._exit(130)
    os._exit(0)
