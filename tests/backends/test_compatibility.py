"""Does an engine fit its sidecar and this machine: told from the header, with nothing of NVIDIA's."""

from __future__ import annotations

import pytest

from trtpipe.artifact import IOContract
from trtpipe.backends import compatibility
from trtpipe.backends.base import Refusal
from trtpipe.backends.compatibility import contradictions, obstacles
from trtpipe.backends.engine_file import PlanHeader
from trtpipe.backends.gpu import Gpu
from trtpipe.config.profile import BuildSettings
from trtpipe.engine.record import EngineRecord

HEADER = PlanHeader(flavor="tensorrt-rtx", version="1.7.1.116", targets=("sm89",), size_ok=True)
RECORD = EngineRecord(
    flavor="tensorrt-rtx",
    version="1.7.1.116",
    target="sm89",
    io=IOContract(inputs=(), outputs=()),
    digests={"plan": "a" * 64},
    build_seconds=1.0,
)


def header(**changes):
    return HEADER.model_copy(update=changes)


@pytest.fixture
def here(monkeypatch):
    """A machine: which version is installed, and the capabilities of its GPUs."""

    def machine(installed="1.7.1.116", *capabilities):
        absent = Refusal("backend needs the package", "pip install it")
        found = tuple(Gpu("u", f"GPU {cc}", cc, "570", None) for cc in capabilities)
        monkeypatch.setattr(compatibility, "missing", lambda name: None if installed else absent)
        monkeypatch.setattr(compatibility, "version", lambda name: installed)
        monkeypatch.setattr("trtpipe.backends.gpu.gpus", lambda: found)

    return machine


def reasons(*arguments):
    return [found.reason for found in obstacles(*arguments)]


def test_an_engine_that_fits(here):
    here("1.7.1.116", (8, 9))
    assert obstacles(HEADER, RECORD) == ()
    assert contradictions(HEADER, RECORD, "a" * 64) == ()


def test_the_flavor_is_not_installed(here):
    here("", (8, 9))
    assert reasons(HEADER, RECORD) == ["backend needs the package"]


@pytest.mark.parametrize("installed", ["1.6.1.120", "1.8.0.1", "2.7.1", "1.7.2"])
def test_another_release_built_it(here, installed):
    here(installed, (8, 9))
    [reason] = reasons(HEADER, RECORD)
    assert reason.startswith(f"tensorrt-rtx 1.7.1.116 built it, {installed} is installed")
    assert "tensorrt-rtx==1.7.1.*" in obstacles(HEADER, RECORD)[0].remedy


@pytest.mark.parametrize(
    ("installed", "fits"), [("1.8.0.1", True), ("1.10.0.1", True), ("1.6.0.1", False), ("2.0.0.1", False)]
)
def test_a_version_compatible_engine_runs_on_later_releases_of_its_major_version(here, installed, fits):
    here(installed, (8, 9))
    record = RECORD.model_copy(update={"options": BuildSettings(version_compatible=True)})
    assert (obstacles(HEADER, record) == ()) is fits


def test_another_build_of_one_release_fits(here):
    here("1.7.1.118", (8, 9))
    assert obstacles(HEADER, RECORD) == ()


def test_a_version_that_nobody_tells_is_no_obstacle(here, monkeypatch):
    here("1.7.1.116", (8, 9))
    monkeypatch.setattr(compatibility, "version", lambda name: None)
    assert obstacles(HEADER, RECORD) == ()


def test_no_gpu_and_another_gpu(here):
    here("1.7.1.116")
    assert reasons(HEADER, RECORD) == ["this machine has no NVIDIA GPU"]
    here("1.7.1.116", (12, 0))
    assert reasons(HEADER, None) == ["this machine's GPU is GPU (12, 0) (sm120), the engine is for sm89"]


def test_one_of_several_targets_is_enough_and_so_is_a_promise_for_later_gpus(here):
    here("1.7.1.116", (12, 0))
    assert obstacles(header(targets=("sm89", "sm120")), None) == ()
    assert obstacles(header(and_later=True), None) == ()


def test_a_header_that_does_not_say_is_no_obstacle(here):
    here("11.4.0.106", (9, 0))
    assert obstacles(PlanHeader(flavor="tensorrt", version="11.4.0.106"), None) == ()


def test_every_obstacle_is_named(here):
    here("1.5.0.114")
    assert len(obstacles(HEADER, RECORD)) == 2


@pytest.mark.parametrize(
    ("plan", "record", "words"),
    [
        (header(size_ok=False), None, "truncated"),
        (HEADER, {"flavor": "tensorrt"}, "says tensorrt, the engine is of tensorrt-rtx"),
        (HEADER, {"target": "sm120"}, "says sm120, the engine is for sm89"),
        (HEADER, {"digests": {"plan": "b" * 64}}, "digests differ"),
    ],
)
def test_what_does_not_belong_together(plan, record, words):
    known = None if record is None else RECORD.model_copy(update=record)
    [note] = contradictions(plan, known, "a" * 64)
    assert words in note


def test_a_sidecar_of_an_older_release_has_no_digest_and_is_believed():
    assert contradictions(HEADER, RECORD.model_copy(update={"digests": {}}), "c" * 64) == ()
