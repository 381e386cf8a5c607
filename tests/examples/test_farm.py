"""The farm's README: a matrix on one machine. tests/farm runs the demo on a cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from examples.readme import prepared, run_commands

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_the_commands_of_the_readme(tmp_path: Path) -> None:
    for package in ("torch", "tensorrt_rtx", "safetensors"):
        pytest.importorskip(package)
    planned, *_ = run_commands("farm", prepared(tmp_path))
    report = json.loads((tmp_path / "build" / "farm" / "matrix.json").read_text())
    names = [cell["name"] for cell in report["cells"]]
    assert len(names) == 6
    assert all(name in planned for name in names)
    assert report["built"] == 0, "the third command builds again"
    assert all(cell["state"] == "passed" for cell in report["cells"])
    assert (tmp_path / "build" / "farm" / "matrix.html").is_file()
