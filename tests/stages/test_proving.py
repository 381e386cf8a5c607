"""Graphs that the user gives to a stage that runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostile.models import loop, plain
from models import conv_net, save

from trtpipe.errors import WorkerDied
from trtpipe.progress import Silent
from trtpipe.settings import Settings
from trtpipe.stages.proving import Proof, ProofRequest, prove, prove_task
from trtpipe.table import artifact_from_file

if TYPE_CHECKING:
    from conftest import MakeJob

    from trtpipe.artifact import Artifact


@pytest.fixture
def spoilt(tmp_path: Path) -> Artifact:
    def make(spoil: object) -> Artifact:
        proto = plain()
        spoil(proto)  # type: ignore[operator]
        return artifact_from_file("lowered", save(proto, tmp_path / "given" / "graph.onnx"))

    return make  # type: ignore[return-value]


def test_one_that_never_ends_is_stopped(spoilt, make_job: MakeJob, tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path / "cache", worker_seconds=4.0)
    with pytest.raises(WorkerDied, match=r"time limit of 4\.0 s while running graph\.onnx for the first time"):
        prove(spoilt(loop(1 << 62)), make_job(settings=settings), tmp_path, Silent())


@pytest.mark.parametrize(("shapes", "ran"), [({"x": (2, 3, 8, 8)}, True), ({"x": (2, 3, 9, 9)}, False)])
def test_whether_it_ran(tmp_path: Path, shapes: dict[str, tuple[int, ...]], ran: bool) -> None:
    path = save(conv_net(), tmp_path / "net.onnx")
    assert prove_task(ProofRequest(model=str(path), shapes=shapes), lambda *_: None) == Proof(ran=ran)
