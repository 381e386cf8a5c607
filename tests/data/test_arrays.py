from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trtpipe.config.recipe import DataSettings
from trtpipe.data.dataset import open_dataset
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeContract

X = np.arange(120, dtype=np.float32).reshape(10, 3, 4)


def npz(tmp_path: Path, **arrays: Any) -> str:
    np.savez(tmp_path / "calib.npz", **arrays)
    return str(tmp_path / "calib.npz")


def npy(tmp_path: Path, array: np.ndarray) -> str:
    np.save(tmp_path / "calib.npy", array)
    return str(tmp_path / "calib.npy")


class TestFeeds:
    @pytest.mark.parametrize("write", ["npz", "npy"])
    def test_rows_are_stacked_to_batches(self, tmp_path: Path, contract: MakeContract, write: str) -> None:
        source = npz(tmp_path, x=X) if write == "npz" else npy(tmp_path, X)
        dataset = open_dataset(DataSettings(source=source, batch=4), contract(x=("float32", ("N", 3, 4))))
        feeds = [sample.feed["x"] for sample in dataset]
        assert [feed.shape for feed in feeds] == [(4, 3, 4), (4, 3, 4), (2, 3, 4)]
        np.testing.assert_array_equal(np.concatenate(feeds), X)
        assert (dataset.size, dataset.samples, dataset.seed) == (3, 10, None)
        assert dataset.name == f"calib.{write} (10 of 10)"

    def test_a_seeded_choice_takes_the_same_rows_of_every_array(self, tmp_path: Path, contract: MakeContract) -> None:
        source = npz(tmp_path, ids=np.arange(10), x=X, y=np.arange(10))
        settings = DataSettings(source=source, samples=4, seed=3, batch=2, labels="y")
        dataset = open_dataset(settings, contract(x=("float32", ("N", 3, 4)), ids=("int64", ("N",))))
        samples = list(dataset)
        ids = np.concatenate([sample.feed["ids"] for sample in samples])
        assert len(set(ids.tolist())) == 4
        assert ids.tolist() == sorted(ids.tolist())
        np.testing.assert_array_equal(np.concatenate([sample.feed["x"] for sample in samples]), X[ids])
        assert [label for s in samples if s.labels is not None for label in s.labels] == ids.tolist()
        assert dataset.seed == 3
        assert dataset.name == "calib.npz (4 of 10, seed 3)"

    def test_a_fixed_batch_is_filled_and_the_remainder_dropped(self, tmp_path: Path, contract: MakeContract) -> None:
        dataset = open_dataset(DataSettings(source=npz(tmp_path, x=X)), contract(x=("float32", (4, 3, 4))))
        assert [sample.rows for sample in dataset] == [4, 4]
        assert (dataset.size, dataset.samples) == (2, 8)
        assert "last 2 sample(s) were not used" in dataset.warnings[0]

    def test_rows_with_a_batch_axis_are_feeds(self, tmp_path: Path, contract: MakeContract) -> None:
        source = npz(tmp_path, x=X.reshape(5, 2, 3, 4), y=np.arange(10).reshape(5, 2))
        dataset = open_dataset(DataSettings(source=source, labels="y", batch=3), contract(x=("float32", ("N", 3, 4))))
        samples = list(dataset)
        assert [s.rows for s in samples] == [2] * 5
        assert samples[4].labels is not None
        assert samples[4].labels.tolist() == [8, 9]
        assert (dataset.size, dataset.samples) == (5, 10)

    def test_an_input_without_batch_axis_makes_every_row_a_feed(self, tmp_path: Path, contract: MakeContract) -> None:
        source = npz(tmp_path, x=X, scale=np.arange(10, dtype=np.float32))
        model = contract(x=("float32", ("N", 3, 4)), scale=("float32", ()))
        shapes = [(s.feed["x"].shape, float(s.feed["scale"])) for s in open_dataset(DataSettings(source=source), model)]
        assert shapes == [((1, 3, 4), float(i)) for i in range(10)]


class TestDigest:
    def digest(self, contract: Any, source: str, **settings: Any) -> str:
        return open_dataset(DataSettings(source=source, **settings), contract(x=("float32", ("N", 3, 4)))).digests()

    def test_is_of_the_content_used_not_of_the_file(self, tmp_path: Path, contract: MakeContract) -> None:
        base = self.digest(contract, npz(tmp_path, x=X))
        assert self.digest(contract, npy(tmp_path, X)) == base
        assert self.digest(contract, npy(tmp_path, X.astype(np.float64)), batch=4) == base
        changed = X.copy()
        changed[9, 2, 3] = -1
        assert self.digest(contract, npy(tmp_path, changed)) != base
        assert self.digest(contract, npy(tmp_path, X), samples=9) != base


class TestMemory:
    @pytest.mark.parametrize("compressed", [False, True])
    def test_the_file_is_never_in_memory(self, tmp_path: Path, contract: MakeContract, compressed: bool) -> None:
        rows, row_bytes = 64, 1 << 20
        save = np.savez_compressed if compressed else np.savez
        save(tmp_path / "big.npz", x=np.zeros((rows, row_bytes // 4), np.float32))
        dataset = open_dataset(
            DataSettings(source=str(tmp_path / "big.npz"), batch=2), contract(x=("float32", ("N", 1 << 18)))
        )
        tracemalloc.start()
        try:
            assert sum(sample.rows for sample in dataset) == rows
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 16 * row_bytes


class TestErrors:
    @pytest.fixture
    def model(self, contract: MakeContract) -> Any:
        return contract(image=("float32", ("N", 3, 4)))

    def error_of(self, model: Any, source: str, **settings: Any) -> InputError:
        with pytest.raises(InputError) as error:
            list(open_dataset(DataSettings(source=source, **settings), model))
        assert "calib.np" in error.value.message
        return error.value

    def test_unknown_array(self, tmp_path: Path, model: Any) -> None:
        error = self.error_of(model, npz(tmp_path, image=X, imagee=X))
        assert "array 'imagee' is not an input" in error.message
        assert "did you mean 'image'?" in error.remedy

    def test_missing_array(self, tmp_path: Path, model: Any) -> None:
        error = self.error_of(model, npz(tmp_path, labels=np.arange(10)), labels="labels")
        assert "no array for input 'image'" in error.message

    def test_missing_labels(self, tmp_path: Path, model: Any) -> None:
        error = self.error_of(model, npz(tmp_path, image=X, label=np.arange(10)), labels="labels")
        assert "no array 'labels' for the labels" in error.message
        assert "did you mean 'label'?" in error.remedy

    def test_different_lengths(self, tmp_path: Path, model: Any) -> None:
        error = self.error_of(model, npz(tmp_path, image=X, label=np.arange(9)), labels="label")
        assert "image: 10, the labels: 9" in error.message

    def test_no_sample_axis(self, tmp_path: Path, model: Any) -> None:
        error = self.error_of(model, npz(tmp_path, image=X[0]))
        assert "has shape [3, 4], the model takes image: float32[Nx3x4]" in error.message
        assert "a single number" in self.error_of(model, npz(tmp_path, image=np.float32(1))).message

    def test_wrong_row_is_named_by_its_place_in_the_file(self, tmp_path: Path, model: Any) -> None:
        bad = X.copy()
        bad[7, 0, 0] = np.nan
        error = self.error_of(model, npz(tmp_path, image=bad))
        assert "calib.npz: row 7: input 'image' holds NaN" in error.message

    def test_no_rows(self, tmp_path: Path, model: Any) -> None:
        assert "there are no samples" in self.error_of(model, npz(tmp_path, image=X[:0])).message

    def test_npy_for_two_inputs(self, tmp_path: Path, contract: MakeContract) -> None:
        model = contract(a=("float32", None), b=("float32", None))
        assert "feeds one input, the model has 2: a, b" in self.error_of(model, npy(tmp_path, X)).message

    def test_npy_with_objects(self, tmp_path: Path, model: Any) -> None:
        np.save(tmp_path / "calib.npy", np.array([{}], dtype=object), allow_pickle=True)
        assert "holds Python objects" in self.error_of(model, str(tmp_path / "calib.npy")).message

    def test_npy_that_is_none(self, tmp_path: Path, model: Any) -> None:
        whole = npy(tmp_path, X)
        data = (tmp_path / "calib.npy").read_bytes()
        for broken in (data[:-1], data[:40], b"", b"hello"):
            (tmp_path / "calib.npy").write_bytes(broken)
            assert "cannot be read" in self.error_of(model, whole).message
