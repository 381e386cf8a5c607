"""A build whose verification failed is finished work: report, diff and check say what is there, and what is not."""

from __future__ import annotations

import json

import pytest

import trtpipe
from trtpipe.errors import InputError, StageError
from trtpipe.report.manifest import Manifest
from trtpipe.stages.verify import Verify

REASON = "the operator Magic has no kernel here"


@pytest.fixture
def verified(world, heard_all):
    return trtpipe.build(world.job(), world.folder / "verified", progress=heard_all).out


@pytest.fixture
def unverified(world, heard_all, verified, monkeypatch):
    def fail(*arguments):
        raise StageError(REASON, "verify on another machine")

    monkeypatch.setattr(Verify, "run", fail)
    job = world.job(tolerance={"atol": 99.0}, keep=["conv*"])  # another key, and another precision of one node
    result = trtpipe.build(job, world.folder / "unverified", progress=heard_all)
    assert result.verdict.outcome == "not judged"
    assert result.out == world.folder / "unverified", "the engines are kept, and it is no failure"
    return result.out


def test_the_report_shows_everything_else(unverified):
    page = trtpipe.write_report(unverified).read_text()
    accuracy = page.partition("<h2>Accuracy</h2>")[2].partition("<h2>")[0]
    assert REASON in accuracy
    assert "not judged" in accuracy
    assert "PASSED on" not in page
    for section in ("Build", "Engine for sm89", "Precision of every node", "Calibration", "Source", "Settings"):
        assert f"<h2>{section}</h2>" in page


@pytest.mark.parametrize("swapped", [False, True])
def test_a_difference_of_one_build_that_was_verified_and_one_that_was_not(verified, unverified, swapped):
    builds = (unverified, verified) if swapped else (verified, unverified)
    found = trtpipe.diff(*builds)
    assert found.precisions
    assert found.metrics
    assert all(bool(each.old) is not swapped and bool(each.new) is swapped for each in (*found.metrics, *found.parity))
    assert trtpipe.diff(unverified, unverified).parity == ()


class TestCheck:
    @pytest.fixture
    def baseline(self, verified, tmp_path):
        trtpipe.save_baseline(verified, tmp_path / "b.json")
        return tmp_path / "b.json"

    def test_it_is_not_as_good_as_one_that_was_judged(self, baseline, unverified):
        report = trtpipe.check(unverified, baseline, min_metric={"top1": "50%"})
        assert not report.gate_passed("accuracy")
        assert report.headline.startswith("FAILED: ")
        found = {finding.name: finding for finding in report.findings}
        assert found["verification"].status == "failed"
        assert REASON in found["verification"].message
        assert "conv" in found["precision of layers"].message, "what else changed is said too"
        assert "engine:sm89" in found

    def test_it_is_no_baseline(self, unverified, tmp_path):
        with pytest.raises(InputError, match=f"nothing was compared in this build: {REASON}"):
            trtpipe.save_baseline(unverified, tmp_path / "b.json")
        assert not (tmp_path / "b.json").exists()

    def test_a_verification_that_was_taken_out_by_hand(self, verified, baseline):
        """Else a bad figure could be hidden."""
        manifest = Manifest.read(verified / "manifest.json")
        kept = tuple(entry for entry in manifest.artifacts if entry.label != "parity")
        manifest.model_copy(update={"artifacts": kept}).write(verified / "manifest.json")
        for ask in (trtpipe.write_report, lambda build: trtpipe.check(build, baseline)):
            with pytest.raises(InputError, match=r"verdict\.data: real, beside no parity\.json"):
                ask(verified)


def test_the_manifest_says_so(unverified):
    verdict = json.loads((unverified / "manifest.json").read_text())["verdict"]
    assert verdict["data"] == "none"
    assert verdict["accuracy"]["summary"] == REASON
