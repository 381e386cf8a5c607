"""Bad samples, from every kind of source and from the model itself: named, or skipped and recorded."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from models import statistics_reduction

from trtpipe.calibration.collect import collect
from trtpipe.config.recipe import DataSettings
from trtpipe.data.dataset import open_dataset
from trtpipe.errors import InputError
from trtpipe.progress import NullProgress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import MakeContract

    from trtpipe.artifact import Feed
    from trtpipe.data.dataset import Dataset

BAD = (4, 9)


def values() -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    x[BAD[0], 1] = np.nan
    x[BAD[1], :2] = np.inf
    return x


def as_npz(folder: Path) -> str:
    np.savez(folder / "d.npz", x=values())
    return str(folder / "d.npz")


def as_hdf5(folder: Path) -> str:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "d.h5", "w") as file:
        file["x"] = values()
    return str(folder / "d.h5")


def as_tar(folder: Path) -> str:
    with tarfile.open(folder / "d.tar", "w") as archive:
        for index, row in enumerate(values()):
            stream = io.BytesIO()
            np.save(stream, row)
            info = tarfile.TarInfo(f"{index:03}.npy")
            info.size = stream.tell()
            stream.seek(0)
            archive.addfile(info, stream)
    return str(folder / "d.tar")


def as_function(folder: Path) -> str:
    np.save(folder / "rows.npy", values())
    code = "import numpy as np\nfrom pathlib import Path\ndef rows():\n"
    code += "    yield from np.load(Path(__file__).parent / 'rows.npy')\n"
    (folder / "d.py").write_text(code)
    return f"{folder / 'd.py'}:rows"


SOURCES = [as_npz, as_hdf5, as_tar, as_function]


@pytest.fixture
def opened(tmp_path: Path, contract: MakeContract) -> Any:
    def make(write: Callable[[Path], str], rows: int | str = "N", **settings: Any) -> Dataset:
        return open_dataset(DataSettings(source=write(tmp_path), **settings), contract(x=("float32", (rows, 3))))

    return make


def identity(feed: Feed) -> Feed:
    return {"y": feed["x"]}


@pytest.mark.parametrize("write", SOURCES)
def test_the_first_bad_sample_stops_with_index_and_name(opened: Any, write: Any) -> None:
    with pytest.raises(
        InputError, match=r"(?m)(row 4|sample '004'|sample 4): input 'x' holds NaN .*\(sample 4\)$"
    ) as caught:
        collect(statistics_reduction(identity, ["y"]), opened(write), ["y"], NullProgress())
    assert "--skip-bad-samples" in caught.value.remedy


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("write", SOURCES)
def test_bad_samples_are_skipped_and_recorded(opened: Any, write: Any, batch: int) -> None:
    dataset = opened(write, skip_bad_samples=2, batch=batch)
    statistics = collect(statistics_reduction(identity, ["y"]), dataset, ["y"], NullProgress(), max_bad_samples=2)
    good = np.delete(values(), BAD, axis=0)
    summary = statistics.data_summary
    assert summary is not None
    assert statistics.tensors["y"].count == good.size
    assert statistics.tensors["y"].maximum == good.max()
    assert summary.samples == 18
    assert [(each.index, each.nonfinite, each.values) for each in summary.skipped] == [(4, 1, 3), (9, 2, 3)]
    assert summary.inputs["x"].nonfinite == pytest.approx(3 / 60)
    assert summary.inputs["x"].mean == pytest.approx(good.astype(np.float64).mean())
    assert any("2 bad sample(s) were skipped" in warning for warning in summary.warnings)


@pytest.mark.parametrize("write", SOURCES)
def test_one_bad_sample_more_than_allowed_stops(opened: Any, write: Any) -> None:
    dataset = opened(write, skip_bad_samples=1)
    with pytest.raises(InputError, match=r"(?m)\(sample 9\)$") as caught:
        collect(statistics_reduction(identity, ["y"]), dataset, ["y"], NullProgress(), max_bad_samples=1)
    assert "1 bad samples were skipped already" in caught.value.remedy


def test_a_fixed_batch_that_can_no_longer_be_filled_is_left_out(opened: Any) -> None:
    dataset = opened(as_npz, rows=4, skip_bad_samples=2)
    statistics = collect(statistics_reduction(identity, ["y"]), dataset, ["y"], NullProgress(), max_bad_samples=2)
    assert statistics.samples == 16
    assert any("the last 2 sample(s) were not used" in warning for warning in dataset.warnings)


def test_samples_the_model_fails_on_count_too(opened: Any) -> None:
    def picky(feed: Feed) -> Feed:
        if feed["x"][0, 0] == values()[12, 0]:
            raise InputError("cannot run this", "mend it")
        return {"y": feed["x"] * (np.nan if feed["x"][0, 0] == values()[14, 0] else 1)}

    with pytest.raises(InputError, match=r"after sample 14: tensor 'y' became NaN .*\(sample 14\)"):
        collect(
            statistics_reduction(picky, ["y"]),
            opened(as_npz, skip_bad_samples=3),
            ["y"],
            NullProgress(),
            max_bad_samples=3,
        )
    statistics = collect(
        statistics_reduction(picky, ["y"]), opened(as_npz, skip_bad_samples=4), ["y"], NullProgress(), max_bad_samples=4
    )
    assert statistics.data_summary is not None
    assert statistics.tensors["y"].count == 16 * 3
    assert len(statistics.data_summary.skipped) == 4
    assert statistics.data_summary.samples == 16


def test_a_broken_image_is_named_or_skipped(tmp_path: Path, contract: MakeContract, picture: Any) -> None:
    pytest.importorskip("PIL")
    for index in range(5):
        picture(tmp_path / "i" / f"{index}.png")
    (tmp_path / "i" / "3.png").write_bytes((tmp_path / "i" / "3.png").read_bytes()[:60])

    def images(allowed: int) -> Dataset:
        settings = DataSettings(source=str(tmp_path / "i"), skip_bad_samples=allowed)
        return open_dataset(settings, contract(x=("float32", ("N", 3, 6, 8))))

    with pytest.raises(InputError, match=r"3\.png.*\(sample 3\)"):
        list(images(0))
    dataset = images(1)
    assert len(list(dataset)) == 4
    assert "3.png" in dataset.skipped[0].reason


def test_the_number_allowed_is_part_of_the_key(make_job: Any) -> None:
    from trtpipe.stages.observe import Observe

    job = make_job(precision="int8"), make_job(precision="int8", recipe={"data": {"skip_bad_samples": 1}})
    assert Observe().settings(job[0]) != Observe().settings(job[1])
