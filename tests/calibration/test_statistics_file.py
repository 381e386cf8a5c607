from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trtpipe.calibration.data_summary import DataSummary, InputSummary
from trtpipe.calibration.statistics import Statistics
from trtpipe.calibration.statistics_file import load_statistics, merge_statistics, save_statistics
from trtpipe.config.recipe import ImageSettings
from trtpipe.errors import InputError

MAKE = """
import sys
from pathlib import Path
import numpy as np
from trtpipe.calibration.statistics import Statistics
from trtpipe.calibration.statistics_file import save_statistics
names = {"b", "a", "c/d", "e"}
statistics = Statistics.empty(names)
x = np.random.default_rng(0).standard_normal((4, 100)).astype(np.float32)
for part in x if sys.argv[2] == "forward" else x[::-1]:
    statistics.update({name: part for name in names})
save_statistics(statistics, Path(sys.argv[1]))
"""


VALUES = np.random.default_rng(0).standard_normal((60, 50)).astype(np.float32)


def shard(path: Path, rows: np.ndarray, name: str = "t") -> Path:
    statistics = Statistics.empty([name])
    for row in rows:
        statistics.update({name: row})
    summary = DataSummary(source=path.name, samples=len(rows), feeds=len(rows), digest=f"{rows.sum():064}", inputs={})
    statistics.data_summaries = (summary,)
    save_statistics(statistics, path)
    return path


@pytest.fixture
def statistics() -> Statistics:
    made = Statistics.empty(["relu/out", "zero", "never", "naïve\nname", "bad"])
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    for name, values in {
        "relu/out": np.maximum(x, 0),
        "zero": np.zeros(5),
        "never": np.zeros(0),
        "naïve\nname": -np.abs(x) * 1e30,
        "bad": np.float32([np.nan, 1e-42]),
    }.items():
        made.tensors[name].update(values)
    made.data_summaries = (
        DataSummary(
            source="imgs",
            samples=3,
            feeds=2,
            digest="d" * 64,
            inputs={"x": InputSummary(minimum=-1.5, maximum=0.1, mean=1 / 3, zeros=0)},
            preprocessing=ImageSettings(resize=(3, 4)),
            seed=3,
            warnings=("few",),
        ),
    )
    return made


@pytest.fixture
def saved(statistics: Statistics, tmp_path: Path) -> Path:
    save_statistics(statistics, tmp_path / "s.npz")
    return tmp_path / "s.npz"


def test_round_trip(statistics: Statistics, saved: Path) -> None:
    assert load_statistics(saved) == statistics


def test_no_tensors_at_all(tmp_path: Path) -> None:
    save_statistics(Statistics.empty([]), tmp_path / "s.npz")
    assert load_statistics(tmp_path / "s.npz") == Statistics.empty([])


def test_merged_files_equal_the_whole(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32)
    parts = []
    for index, rows in enumerate((x[:2], x[2:3], x[3:])):
        part = Statistics.empty(["t"])
        part.update({"t": rows})
        save_statistics(part, tmp_path / f"{index}.npz")
        parts.append(load_statistics(tmp_path / f"{index}.npz"))
    whole = Statistics.empty(["t"])
    whole.update({"t": x})
    save_statistics(parts[2].merge(parts[0]).merge(parts[1]), tmp_path / "merged.npz")
    save_statistics(whole, tmp_path / "whole.npz")
    assert (tmp_path / "merged.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_bytes_are_the_same_in_every_process(tmp_path: Path) -> None:
    files = []
    for seed, order in (("0", "forward"), ("1", "backward")):
        path = tmp_path / seed / "s.npz"
        path.parent.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"}
        subprocess.run([sys.executable, "-c", MAKE, str(path), order], check=True, env=environment)
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_is_small(saved: Path) -> None:
    assert saved.stat().st_size < 30_000


class TestDamage:
    def test_every_truncation_is_refused(self, saved: Path) -> None:
        whole = saved.read_bytes()
        for length in range(0, len(whole), 61):
            saved.write_bytes(whole[:length])
            with pytest.raises(InputError, match=r"s\.npz"):
                load_statistics(saved)

    def test_flipped_bits_are_refused_or_change_nothing(self, saved: Path, statistics: Statistics) -> None:
        whole = saved.read_bytes()
        refused: list[str] = []
        for position in range(0, len(whole), 23):
            saved.write_bytes(whole[:position] + bytes([whole[position] ^ 0x04]) + whole[position + 1 :])
            try:
                assert load_statistics(saved) == statistics
            except InputError as error:
                refused.append(error.message)
        assert len(refused) > len(whole) / 46
        assert all(str(saved) in message for message in refused)

    @pytest.mark.parametrize(
        ("array", "index", "value"),
        [
            ("count", 0, 7),
            ("zeros", 2, 10**6),
            ("zeros", 0, -1),
            ("nonfinite", 0, -1),
            ("minimum", 3, 99.0),
            ("maximum", 3, np.nan),
            ("minimum", 2, 0.0),
            ("ends", 0, -1),
            ("ends", 4, 10**6),
            ("ends", 4, 0),
            ("bins", 0, 65000),
            ("bins", 5, 3),
            ("counts", 3, -1),
            ("about", 0, 7),
        ],
    )
    def test_numbers_that_contradict_each_other_are_refused(
        self, saved: Path, array: str, index: int, value: float
    ) -> None:
        with np.load(saved) as file:
            arrays = {name: file[name] for name in file.files}
        arrays[array][index] = value
        np.savez(saved, **arrays)
        with pytest.raises(InputError, match=r"s\.npz"):
            load_statistics(saved)

    def test_other_files_are_refused(self, saved: Path, tmp_path: Path) -> None:
        with np.load(saved) as file:
            arrays = {name: file[name] for name in file.files}
        np.savez_compressed(saved, **arrays)
        with pytest.raises(InputError, match="compressed"):
            load_statistics(saved)
        np.savez(saved, x=np.zeros(3))
        with pytest.raises(InputError, match="not a statistics file"):
            load_statistics(saved)
        np.savez(saved, **{**arrays, "count": arrays["count"].astype(np.int32)})
        with pytest.raises(InputError, match="array 'count' is int32"):
            load_statistics(saved)
        np.savez(saved, **{**arrays, "minimum": arrays["minimum"][:-1]})
        with pytest.raises(InputError, match="contradict"):
            load_statistics(saved)
        with pytest.raises(InputError, match="cannot be read"):
            load_statistics(tmp_path / "missing.npz")


def test_files_of_an_older_version_are_refused_by_name(saved: Path) -> None:
    with np.load(saved) as file:
        arrays = {name: file[name] for name in file.files}
    about = arrays["about"].tobytes().replace(b'"schema_version": 3', b'"schema_version": 1')
    np.savez(saved, **{**arrays, "about": np.frombuffer(about, np.uint8)})
    with pytest.raises(InputError, match=r"is of schema 1: .*reads 3"):
        load_statistics(saved)


class TestMerging:
    def test_shards_of_any_size_in_any_order_give_one_file(self, tmp_path: Path) -> None:
        parts = [shard(tmp_path / f"{i}.npz", rows) for i, rows in enumerate(np.split(VALUES, [7, 8, 40]))]
        merge_statistics(parts, tmp_path / "a.npz")
        merge_statistics(parts[::-1], tmp_path / "b.npz")
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
        whole = Statistics.empty(["t"])
        whole.update({"t": VALUES})
        found = load_statistics(tmp_path / "a.npz")
        assert found.tensors == whole.tensors
        assert found.samples == 60
        assert len(found.data_summaries) == 4
        assert not list(tmp_path.glob(".trtpipe-*"))

    def test_merging_merged_files_is_the_same(self, tmp_path: Path) -> None:
        a, b, c = (shard(tmp_path / f"{i}.npz", rows) for i, rows in enumerate(np.split(VALUES, 3)))
        merge_statistics([a, b], tmp_path / "ab.npz")
        merge_statistics([tmp_path / "ab.npz", c], tmp_path / "ab_c.npz")
        merge_statistics([a, b, c], tmp_path / "abc.npz")
        assert (tmp_path / "ab_c.npz").read_bytes() == (tmp_path / "abc.npz").read_bytes()

    def test_refusals_leave_the_output_as_it_was(self, tmp_path: Path) -> None:
        a = shard(tmp_path / "a.npz", VALUES[:5])
        other = shard(tmp_path / "other.npz", VALUES[5:9], name="u")
        out = tmp_path / "out.npz"
        out.write_text("before")
        (tmp_path / "broken.npz").write_bytes(a.read_bytes()[:100])
        for paths, words in (
            ([], "no statistics to merge"),
            ([a, other], r"other\.npz: of another model than .*a\.npz: tensor 't'"),
            ([a, a], r"a\.npz: of the same samples as .*a\.npz"),
            ([a, tmp_path / "broken.npz"], r"broken\.npz: cannot be read"),
            ([tmp_path / "missing.npz"], r"missing\.npz"),
        ):
            with pytest.raises(InputError, match=words):
                merge_statistics(paths, out)
        assert out.read_text() == "before"
