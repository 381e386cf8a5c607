from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from models import conv_net, save

from trtpipe.isolation.imports import without


def test_the_package_cannot_be_imported_inside_and_can_be_afterwards() -> None:
    sys.modules.pop("colorsys", None)
    with without("colorsys"), pytest.raises(ModuleNotFoundError):
        importlib.import_module("colorsys")
    assert importlib.import_module("colorsys").rgb_to_hsv(1, 1, 1) == (0.0, 0.0, 1)


def test_a_package_that_is_imported_already_stays_as_it_is() -> None:
    module = importlib.import_module("colorsys")
    with without("colorsys"):
        assert importlib.import_module("colorsys") is module


def test_an_error_inside_leaves_nothing_behind() -> None:
    sys.modules.pop("colorsys", None)
    with pytest.raises(RuntimeError, match="inside"), without("colorsys"):
        raise RuntimeError("inside")
    assert "colorsys" not in sys.modules


RUN = """
import sys
from pathlib import Path
from trtpipe.backends.base import load_backend
from trtpipe.config.settings import Settings

with load_backend("onnxruntime").open(Path(sys.argv[1]), Settings(cache_dir=Path())) as runner:
    print(runner.device)
"""


def test_onnxruntime_writes_nothing_into_the_home_folder(tmp_path: Path) -> None:
    """Version 1.32 keeps a telemetry database there, and looks up the names of the machines it sends it to."""
    home, dropped = tmp_path / "home", {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    answer = subprocess.run(
        [sys.executable, "-c", RUN, str(save(conv_net(), tmp_path / "m.onnx"))],
        env={**kept, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("onnxruntime")
    assert list(home.rglob("*")) == []
