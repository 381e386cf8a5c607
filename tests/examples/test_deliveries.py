"""The examples for Triton and Jetson, on one build of the digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from examples.readme import ROOT, prepared, printed, run_commands

import trtpipe

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``make demo`` has been run, for one target and with placeholders for engines."""
    pytest.importorskip("torch")
    folder = prepared(tmp_path_factory.mktemp("deliveries"))
    profile = trtpipe.DeploymentProfile.load(ROOT / "profiles" / "digits.toml")
    latency = profile.latency.model_copy(update={"warmup": 0.001, "duration": 0.001})
    source = f"{ROOT / 'examples' / 'digits' / 'model.py'}:digits_cnn"
    profile = profile.model_copy(update={"backend": "null", "latency": latency})
    trtpipe.build(source, folder / "build" / "digits", profile=profile, precision="int8", targets=["sm89"],
                  recipe=ROOT / "calib" / "digits.toml")  # fmt: skip
    return folder


def test_triton(folder: Path) -> None:
    run_commands("triton", folder)
    repository = folder / "build" / "repository"
    for path in printed("triton")[0].splitlines():
        assert (repository / path).is_file()
    served = folder / "build" / "triton-sm89"
    assert (served / "handover" / "finish.py").is_file()
    assert (served / "repository" / "digits_cnn" / "config.pbtxt").is_file()
    assert not list(served.glob("repository/*/1/model.plan"))


def test_jetson(folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    _, _, finished, _, verified = run_commands("jetson", folder)
    assert finished.strip() == printed("jetson")[0]
    assert "engine not executed" in verified
    assert {"lowered.onnx", "finish.py", "trtexec.sh"} <= {path.name for path in (folder / "build" / "orin").iterdir()}
