"""The audit hook of tests/conftest.py watches the whole suite; here is the proof that it sees what it is for."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest

import trtpipe

OURS = str(Path(trtpipe.__file__).parent / "calibration" / "made_up.py")


def called_from(filename: str, stream: io.BytesIO) -> object:
    """``np.load`` with pickles allowed, in a function that seems to stand in ``filename``."""
    names: dict[str, object] = {}
    exec(compile("def load(np, stream):\n    return np.load(stream, allow_pickle=True)", filename, "exec"), names)
    load = names["load"]
    assert callable(load)
    return load(np, stream)


def pickled() -> io.BytesIO:
    stream = io.BytesIO()
    np.save(stream, np.array([Path("x")], object), allow_pickle=True)
    stream.seek(0)
    return stream


def test_our_own_code_cannot_unpickle_even_through_a_library() -> None:
    with pytest.raises(AssertionError, match=r"made_up\.py unpickles"):
        called_from(OURS, pickled())


def test_others_can() -> None:
    assert called_from("elsewhere.py", pickled()) is not None
    assert pickle.loads(pickle.dumps(Path("x"))) == Path("x")
