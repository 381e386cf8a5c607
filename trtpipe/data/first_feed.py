"""The first sample of some data, before there is a model that says what its inputs are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.data import function
from trtpipe.data.npz import read_members
from trtpipe.data.usercode import load_function

if TYPE_CHECKING:
    from trtpipe.artifact import Feed
    from trtpipe.config.recipe import DataSettings


def first_feed(data: DataSettings) -> Feed | None:
    """The first sample by the names that the data gives: of an ``.npz`` file, or of a function that yields dicts.

    Arrays of a file have the batch axis, with ``data.batch`` rows; those of a function are as it gives them.

    Returns:
        Input name -> array; ``None`` for data without names of inputs, such as images.

    Raises:
        InputError: the file is damaged, or the function fails.

    Example:
        >>> np.savez("data.npz", ids=np.ones((8, 16), np.int64), labels=np.zeros(8))
        >>> first_feed(DataSettings(source="data.npz", labels="labels", batch=2))["ids"].shape
        (2, 16)
    """
    path = Path(data.source)
    if path.suffix.lower() == ".npz" and path.is_file():
        members = read_members(path).items()
        return {
            name: np.stack(list(member.rows(range(min(data.batch, member.shape[0])))))
            for name, member in members
            if name != data.labels and member.shape
        }
    if not function.recognizes(data.source):
        return None
    with closing(load_function(data.source).items()) as items:
        item = next(items, None)
    feed = item[0] if isinstance(item, tuple) and item else item
    return {str(name): np.asarray(value) for name, value in feed.items()} if isinstance(feed, Mapping) else None
