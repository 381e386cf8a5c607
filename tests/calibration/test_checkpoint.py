"""A killed calibration resumes, and gives the same bytes as an uninterrupted one."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from models import conv_net, normal, save

from trtpipe.calibration.checkpoint import Checkpoints, State
from trtpipe.calibration.convergence import RangeSnapshot
from trtpipe.calibration.data_summary import InputTotals, SummaryState
from trtpipe.calibration.statistics import Statistics
from trtpipe.config.authenticity import Mac
from trtpipe.data.sample import Skipped

if TYPE_CHECKING:
    from pathlib import Path

DATA = """
import numpy as np
def feeds():
    for index in range(30):
        x = np.random.default_rng(index).standard_cauchy((1, 3, 8, 8)).astype(np.float32)
        yield {"x": np.full_like(x, np.nan) if index == 3 else x}
"""

#: Calibrates; in the second iteration over the data, in which the model runs, it kills itself where it is told to: the
#: function of the user is in another process, some samples ahead.
RUN = """
import os, sys
from pathlib import Path
import trtpipe
from trtpipe.calibration import checkpoint
from trtpipe.config.recipe import CalibrationRecipe, DataSettings
from trtpipe.config.settings import Settings
from trtpipe.data.user_process import UserProcess
checkpoint.SECONDS, checkpoint._WRITE_FRACTION = 0.0, 1e9
class Heard(trtpipe.NullProgress):
    def note(self, message): print(message)
folder, samples = Path(sys.argv[1]), sys.argv[2]
kill = (folder / "kill").read_text().split() if (folder / "kill").exists() else []
walks, items = 0, UserProcess.items
def killing(process):
    global walks
    walks += 1
    second = walks == 2
    for index, item in enumerate(items(process)):
        if second and kill and index == int(kill[0]):
            os.kill(os.getpid(), int(kill[1]))
        yield item
UserProcess.items = killing
data = DataSettings(source=f"{folder / 'data.py'}:feeds", skip_bad_samples=2, samples=int(samples))
trtpipe.calibrate(folder / "m.onnx", sys.argv[4], recipe=CalibrationRecipe(data=data),
                  settings=Settings(cache_dir=Path(sys.argv[3])), progress=Heard())
"""


def calibrated(folder: Path, cache: str, samples: int = 29) -> tuple[int, str, bytes]:
    """(how the process ended, what it said, the statistics)."""
    out = folder / f"out-{cache}"
    command = [sys.executable, "-c", RUN, str(folder), str(samples), str(folder / cache), str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode <= 0, done.stderr
    path = out / "statistics.npz"
    return done.returncode, done.stdout, path.read_bytes() if path.exists() else b""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(conv_net(), tmp_path / "m.onnx")
    (tmp_path / "data.py").write_text(DATA)
    return tmp_path


def left(folder: Path, cache: str) -> list[str]:
    return sorted(path.name for path in (folder / cache / "partial").glob("*/*"))


def test_killed_at_several_points(folder: Path) -> None:
    _, said, expected = calibrated(folder, "whole")
    assert expected
    assert "resuming" not in said
    assert left(folder, "whole") == []
    for point, how in ((0, signal.SIGKILL), (2, signal.SIGKILL), (17, signal.SIGKILL), (29, signal.SIGKILL)):
        (folder / "kill").write_text(f"{point} {int(how)}")
        code, _, statistics = calibrated(folder, "broken")
        assert (code, statistics) == (-how, b"")
        assert ("checkpoint.json" in left(folder, "broken")) is (point > 1)
    (folder / "kill").unlink()
    code, said, statistics = calibrated(folder, "broken")
    assert code == 0
    assert re.search("resuming after sample 2[78]: an earlier run was interrupted there", said)
    assert statistics == expected
    assert left(folder, "broken") == []


def test_a_checkpoint_of_other_settings_is_not_used(folder: Path) -> None:
    (folder / "kill").write_text(f"17 {int(signal.SIGKILL)}")
    calibrated(folder, "cache")
    assert left(folder, "cache")
    (folder / "kill").unlink()
    code, said, _ = calibrated(folder, "cache", samples=25)
    assert (code, said) == (0, "")


class TestCheckpoints:
    @pytest.fixture
    def statistics(self) -> Statistics:
        found = Statistics.empty(["b", "a"])
        found.update({"a": normal(50), "b": np.zeros(0, np.float32)})
        return found

    @pytest.fixture
    def state(self) -> State:
        totals = InputTotals(count=3, minimum=0.1, maximum=2.5, total="7/3", floating=True)
        return State(
            feeds=4,
            data_summary=SummaryState(samples=3, feeds=3, inputs={"x": totals, "empty": InputTotals()}),
            snapshots=(RangeSnapshot(samples=1, ranges=(0.1, 1 / 3)),),
            skipped=(Skipped(index=2, reason="r", input="x", nonfinite=1, values=9),),
        )

    def test_comes_back_as_it_was(self, tmp_path: Path, statistics: Statistics, state: State) -> None:
        keeper = Checkpoints(tmp_path)
        assert keeper.load() is None
        keeper.save(statistics, state.model_copy(update={"feeds": 1}))
        keeper.save(statistics, state)
        found = Checkpoints(tmp_path).load()
        assert found is not None
        assert found[0] == statistics
        assert found[1] == state.model_copy(update={"statistics": found[1].statistics})
        assert len(list(tmp_path.iterdir())) == 2
        keeper.remove()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("damage", ["cut", "other", "gone", "json"])
    def test_a_damaged_one_counts_as_none(
        self, tmp_path: Path, statistics: Statistics, state: State, damage: str
    ) -> None:
        keeper = Checkpoints(tmp_path)
        keeper.save(statistics, state)
        path, record = tmp_path / "checkpoint-4.npz", tmp_path / "checkpoint.json"
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:-7])
        elif damage == "other":
            Checkpoints(tmp_path / "..").save(statistics.merge(statistics), state)
            path.write_bytes((tmp_path / ".." / "checkpoint-4.npz").read_bytes())
        elif damage == "gone":
            path.unlink()
        else:
            record.write_text(json.dumps({"feeds": 4}))
        assert keeper.load() is None

    def test_one_that_is_not_ours_or_of_other_work_counts_as_none(
        self, tmp_path: Path, statistics: Statistics, state: State
    ) -> None:
        for name in ("one", "two", "three"):
            (tmp_path / name).mkdir()
        Checkpoints(tmp_path / "one", Mac(bytes(32))).save(statistics, state)
        assert Checkpoints(tmp_path / "one").load() is None
        Checkpoints(tmp_path / "two").save(statistics, state)
        for path in (tmp_path / "two").iterdir():
            path.rename(tmp_path / "three" / path.name)
        assert Checkpoints(tmp_path / "three").load() is None

    def test_is_not_due_at_once(self, tmp_path: Path) -> None:
        assert not Checkpoints(tmp_path).due
