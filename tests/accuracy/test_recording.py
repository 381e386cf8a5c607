from __future__ import annotations

import numpy as np
import pytest

from trtpipe.accuracy.recording import Recording, load_outputs, replay
from trtpipe.config.formats import Precision
from trtpipe.config.profile import Tolerance
from trtpipe.errors import InputError


def outputs(feed, shift=0.0):
    y = np.arange(6, dtype=np.float32).reshape(2, 3) + feed
    return {"model": {"y": y, "k": np.array([feed])}, "lowered": {"y": y + np.float32(shift), "k": np.array([feed])}}


def test_outputs_come_back_by_polygraphys_own_format(tmp_path):
    recording = Recording()
    for feed in range(3):
        recording.add(outputs(feed), {})
    recording.save(tmp_path / "outputs.json")
    found = load_outputs(tmp_path / "outputs.json")
    assert list(found) == ["model", "lowered"]
    for feed in range(3):
        np.testing.assert_array_equal(found["model"][feed]["y"], outputs(feed)["model"]["y"])
        assert found["lowered"][feed]["k"].dtype == np.int64


def test_only_so_many_bytes_are_kept_but_always_one_feed():
    size = sum(v.nbytes for found in outputs(0).values() for v in found.values())
    for limit, kept in ((0, 1), (size, 1), (2 * size, 2), (10 * size, 4)):
        recording = Recording(limit)
        for feed in range(4):
            recording.add(outputs(feed), {})
        assert len(recording.feeds) == kept, limit


def test_a_replay_judges_as_the_run_did():
    saved = {label: [outputs(feed, 0.5)[label] for feed in range(3)] for label in ("model", "lowered")}
    for atol, passed in ((0.6, True), (0.4, False)):
        run = replay(
            saved,
            {"lowered": Precision.int8},
            {},
            Tolerance(atol=atol, rtol=0, stat="max", min_cosine=-1, min_snr_db=-99),
            real=True,
        )
        [comparison] = run.comparisons
        assert comparison.passed is passed
        assert comparison.outputs[0].max_abs == 0.5


def test_an_input_can_be_the_mask_of_a_replay(tmp_path):
    """Where it is 0 the outputs differ by 0.5; the image of the same rank is no mask, and is not kept."""
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    feed = {"mask": mask, "length": np.array([2.0, 1.0], np.float32), "image": np.ones((2, 3), np.float32),
            "other": np.ones((3, 2), np.int64)}  # fmt: skip
    recording = Recording()
    for number in range(2):
        found = outputs(number)
        found["lowered"]["y"] = found["lowered"]["y"] + np.where(mask == 0, np.float32(0.5), np.float32(0))
        recording.add(found, feed)
    recording.save(tmp_path / "outputs.json")
    saved = load_outputs(tmp_path / "outputs.json")
    assert {label: set(feeds[0]) for label, feeds in saved.items()} == {
        "model": {"y", "k"}, "lowered": {"y", "k"}, "inputs": {"mask", "length"}
    }  # fmt: skip
    for rules, error in (({}, 0.5), ({"y": "mask"}, 0.0)):
        limits = {"atol": 0.1, "rtol": 0.0, "min_cosine": -1.0, "min_snr_db": -99.0}
        run = replay(saved, {}, {}, Tolerance(stat="max", ignore=rules, **limits), real=True)
        assert [(c.artifact, c.outputs[0].max_abs, c.passed) for c in run.comparisons] == [
            ("lowered", error, not error)
        ]


@pytest.mark.parametrize("content", ["", "{}", "[1, 2]", '{"lst": 3}', "\x00\x01"])
def test_files_that_are_no_outputs(tmp_path, content):
    (tmp_path / "outputs.json").write_text(content)
    with pytest.raises(InputError, match=r"outputs\.json"):
        load_outputs(tmp_path / "outputs.json")
    with pytest.raises(InputError, match="no such file"):
        load_outputs(tmp_path / "none.json")
