"""What the tests of this room share: the table a stage finds its inputs on, and a folder it works in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import onnx
import pytest
from models import save

from trtpipe.config.recipe import DataSettings
from trtpipe.data.dataset import open_dataset
from trtpipe.pipeline.run_state import artifact_from_file
from trtpipe.preflight.onnx_io import read_contract
from trtpipe.stages.stage import Inputs

if TYPE_CHECKING:
    from pathlib import Path


class Table(Protocol):
    def __call__(
        self, *, data: str = "", evaluation: str = "", labels: str = "labels", **things: Path | onnx.ModelProto
    ) -> Inputs: ...


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Inputs by label, from files or models; ``data`` and ``evaluation`` are sources of samples for them."""

    def lay(
        *, data: str = "", evaluation: str = "", labels: str = "labels", **things: Path | onnx.ModelProto
    ) -> Inputs:
        artifacts = {}
        for label, thing in things.items():
            path = save(thing, tmp_path / "given" / f"{label}.onnx") if isinstance(thing, onnx.ModelProto) else thing
            artifacts[label] = artifact_from_file(label, path)
        graph = next(artifact.path for artifact in artifacts.values() if artifact.path.suffix == ".onnx")
        settings = {
            "calibration-data": DataSettings(source=data, batch=4),
            "evaluation-data": DataSettings(source=evaluation, batch=4, labels=labels),
        }
        contract = read_contract(graph)
        return Inputs(artifacts, {role: open_dataset(s, contract) for role, s in settings.items() if s.source})

    return lay
