from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from trtpipe.calibration.data_summary import DataAccount
from trtpipe.calibration.merging import merge_statistics
from trtpipe.calibration.statistics import Statistics
from trtpipe.calibration.statistics_file import load_statistics, save_statistics
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.random.default_rng(0).standard_normal((60, 50)).astype(np.float32)


def shard(path: Path, rows: np.ndarray, name: str = "t") -> Path:
    statistics = Statistics.empty([name])
    for row in rows:
        statistics.update({name: row})
    account = DataAccount(source=path.name, samples=len(rows), feeds=len(rows), digest=f"{rows.sum():064}", inputs={})
    statistics.accounts = (account,)
    save_statistics(statistics, path)
    return path


def test_shards_of_any_size_in_any_order_give_one_file(tmp_path: Path) -> None:
    parts = [shard(tmp_path / f"{i}.npz", rows) for i, rows in enumerate(np.split(VALUES, [7, 8, 40]))]
    merge_statistics(parts, tmp_path / "a.npz")
    merge_statistics(parts[::-1], tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    whole = Statistics.empty(["t"])
    whole.update({"t": VALUES})
    found = load_statistics(tmp_path / "a.npz")
    assert found.tensors == whole.tensors
    assert found.samples == 60
    assert len(found.accounts) == 4
    assert not list(tmp_path.glob(".trtpipe-*"))


def test_merging_merged_files_is_the_same(tmp_path: Path) -> None:
    a, b, c = (shard(tmp_path / f"{i}.npz", rows) for i, rows in enumerate(np.split(VALUES, 3)))
    merge_statistics([a, b], tmp_path / "ab.npz")
    merge_statistics([tmp_path / "ab.npz", c], tmp_path / "ab_c.npz")
    merge_statistics([a, b, c], tmp_path / "abc.npz")
    assert (tmp_path / "ab_c.npz").read_bytes() == (tmp_path / "abc.npz").read_bytes()


def test_refusals_leave_the_output_as_it_was(tmp_path: Path) -> None:
    a = shard(tmp_path / "a.npz", VALUES[:5])
    other = shard(tmp_path / "other.npz", VALUES[5:9], name="u")
    out = tmp_path / "out.npz"
    out.write_text("before")
    (tmp_path / "broken.npz").write_bytes(a.read_bytes()[:100])
    for paths, words in (
        ([], "no statistics to merge"),
        ([a, other], r"other\.npz: of another model than .*a\.npz: tensor 't'"),
        ([a, a], r"a\.npz: rests on the same samples as .*a\.npz"),
        ([a, tmp_path / "broken.npz"], r"broken\.npz: cannot be read"),
        ([tmp_path / "missing.npz"], r"missing\.npz"),
    ):
        with pytest.raises(InputError, match=words):
            merge_statistics(paths, out)
    assert out.read_text() == "before"
