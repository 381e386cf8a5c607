from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trtpipe.config.recipe import DataSettings
from trtpipe.data.dataset import open_dataset
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import MakeContract

    from trtpipe.data.dataset import Dataset

h5py = pytest.importorskip("h5py", reason="reading HDF5 is an extra")
X = np.arange(60, dtype=np.float32).reshape(20, 3)
M = np.arange(20, dtype=np.int64)


@pytest.fixture
def opened(tmp_path: Path, contract: MakeContract) -> Callable[..., Dataset]:
    def make(fill: Callable[[Any], None], **settings: Any) -> Dataset:
        path = tmp_path / "data.h5"
        with h5py.File(path, "w") as file:
            fill(file)
        return open_dataset(
            DataSettings(source=str(path), **settings), contract(x=("float32", ("N", 3)), m=("int64", ("N",)))
        )

    return make


def columns(file: Any) -> None:
    file.create_dataset("x", data=X, chunks=(4, 3), compression="gzip")
    file.create_dataset("m", data=M.astype(np.int16))
    file.create_dataset("y", data=M[::-1])


def test_rows_batches_labels_and_types(opened: Callable[..., Dataset]) -> None:
    dataset = opened(columns, labels="y", batch=8)
    found = list(dataset)
    assert [sample.rows for sample in found] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate([sample.feed["x"] for sample in found]), X)
    np.testing.assert_array_equal(np.concatenate([sample.feed["m"] for sample in found]), M)
    np.testing.assert_array_equal(np.concatenate([sample.labels for sample in found]), M[::-1])
    assert found[0].feed["m"].dtype == np.int64
    assert len(list(dataset)) == 3


def test_a_seeded_choice_is_that_of_an_npz(
    opened: Callable[..., Dataset], tmp_path: Path, contract: MakeContract
) -> None:
    dataset = opened(columns, labels="y", samples=7, seed=3)
    np.savez(tmp_path / "d.npz", x=X, m=M, y=M[::-1])
    same = open_dataset(
        DataSettings(source=str(tmp_path / "d.npz"), labels="y", samples=7, seed=3),
        contract(x=("float32", ("N", 3)), m=("int64", ("N",))),
    )
    assert dataset.digests() == same.digests()


def test_nothing_outside_the_file_is_read(opened: Callable[..., Dataset], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = X
    X.tofile(tmp_path / "raw.bin")
    layout = h5py.VirtualLayout(shape=X.shape, dtype=X.dtype)
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape=X.shape)

    def external_link(file: Any) -> None:
        file["x"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")

    def soft_link(file: Any) -> None:
        file["x"] = h5py.SoftLink("/elsewhere")

    def virtual(file: Any) -> None:
        file.create_virtual_dataset("x", layout)

    def external_storage(file: Any) -> None:
        file.create_dataset("x", X.shape, X.dtype, external=[(str(tmp_path / "raw.bin"), 0, X.nbytes)])

    for fill, words in (
        (external_link, "dataset 'x' is a link"),
        (soft_link, "dataset 'x' is a link"),
        (virtual, "keeps its values in another file"),
        (external_storage, "keeps its values in another file"),
    ):
        with pytest.raises(InputError, match=words):
            opened(fill)


def test_errors(opened: Callable[..., Dataset]) -> None:
    for fill, words in (
        (lambda file: file.create_group("x"), "'x' is a group"),
        (lambda file: file.create_dataset("x", data=["a", "b"]), "dataset 'x' has type object"),
        (lambda file: file.create_dataset("x", data=X), "no array for input 'm'"),
    ):
        with pytest.raises(InputError, match=words):
            opened(fill)


def test_a_damaged_file(tmp_path: Path, contract: MakeContract) -> None:
    (tmp_path / "data.h5").write_bytes(b"not hdf5 at all")
    with pytest.raises(InputError, match=r"data\.h5: cannot be read"):
        open_dataset(DataSettings(source=str(tmp_path / "data.h5")), contract(x=("float32", ("N", 3))))
