"""What the tests of these packages share: the table a stage finds its inputs on, and a folder it works in."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import onnx
import pytest
from models import save

from trtpipe.config.build_request import NotNeeded
from trtpipe.config.recipe import DataSettings
from trtpipe.data.dataset import open_dataset
from trtpipe.pipeline.executor import prepared_without_store
from trtpipe.pipeline.run_state import artifact_from_file
from trtpipe.preflight.onnx_io import read_contract
from trtpipe.stages.stage import Inputs

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.artifact import Draft
    from trtpipe.config.job import Job
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Stage


class RunState(Protocol):
    def __call__(
        self, *, data: str = "", evaluation: str = "", labels: str = "labels", **things: Path | onnx.ModelProto
    ) -> Inputs: ...


def run_stage(stage: Stage[Any], job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> Draft:
    """Run a stage for a job, without its own check."""
    work = prepared_without_store(stage, job, inputs)
    return stage.run(work.settings, work.inputs, workdir, job.runtime, progress)


def settings_of(stage: Stage[Any], job: Job) -> Any:
    """The settings of a stage that the job needs."""
    found = stage.settings(job)
    assert not isinstance(found, NotNeeded)
    return found


def consumed(stage: Stage[Any], job: Job) -> tuple[str, ...]:
    """Labels of what a stage consumes for a job."""
    return stage.consumes(settings_of(stage, job))


def fingerprint_of(stage: Stage[Any], job: Job) -> dict[str, str]:
    """The part of a stage's key that identifies the back-end."""
    return stage.fingerprint(settings_of(stage, job), job.runtime)


def needs(stage: Stage[Any], job: Job) -> bool:
    """Whether the job needs the stage."""
    return not isinstance(stage.settings(job), NotNeeded)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def table(tmp_path: Path) -> RunState:
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
        given = Inputs(artifacts, {role: open_dataset(s, contract) for role, s in settings.items() if s.source})
        first = () if given.samples is None else tuple(sample.feed for sample in islice(given.samples, 2))
        return replace(given, first_samples=first)

    return lay
