"""Stages read each field of their settings, and nothing of the request: a recording proxy watches them run."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from models import conv_net, save
from pydantic import BaseModel
from world import World, write_data

from trtpipe.backends.null import Null
from trtpipe.config import stage_settings
from trtpipe.config.build_request import NotNeeded
from trtpipe.config.job import Job
from trtpipe.config.profile import DeploymentProfile, MeasuringSettings
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.config.source import FactorySource, OnnxSource
from trtpipe.config.target import find_target
from trtpipe.pipeline.pipeline import STAGES, opened, stages_named
from trtpipe.stages.evaluate import Evaluate
from trtpipe.stages.sensitivity import MeasureSensitivity

if TYPE_CHECKING:
    from trtpipe.stages.stage import Stage

EVERY: tuple[Stage[Any], ...] = (*STAGES, Evaluate("lowered"), MeasureSensitivity())

#: Fields that no run here reads: record.field -> why.
UNREAD = {
    "CompileSettings.together": "run_together reads it; for run it is empty",
    "MeasuringSettings.cuda_graph": "only a GPU runs CUDA graphs",
    "MeasuringSettings.transfers": "only a GPU is transferred to",
}
RECORDS = (
    MeasuringSettings,
    *(each for each in vars(stage_settings).values() if isinstance(each, type) and issubclass(each, BaseModel)
      and each.__module__ == stage_settings.__name__ and each is not NotNeeded),
)  # fmt: skip


def fields(record: type[BaseModel]) -> set[str]:
    """``Record.field`` of a settings record and of those within it."""
    found = set()
    for name, info in record.model_fields.items():
        found.add(f"{record.__name__}.{name}")
        for each in (info.annotation, *typing.get_args(info.annotation)):
            if each in RECORDS:
                found |= fields(each)
    return found


@dataclass
class Watch:
    """What stages read while they run: of their settings, and of the jobs themselves."""

    jobs: list[Job] = field(default_factory=list)
    at_work: list[str] = field(default_factory=list)
    read: dict[str, set[str]] = field(default_factory=dict)
    request_read: set[str] = field(default_factory=set)

    def note(self, record: object, name: str) -> None:
        self.read.setdefault(self.at_work[-1], set()).add(name)

    def note_request(self, record: object, name: str) -> None:
        if any(record is each for job in self.jobs for each in (job.__dict__["profile"], job.__dict__["recipe"])):
            self.request_read.add(name)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watched = Watch()

    def spy(record: type[BaseModel], note: Any) -> None:
        original = record.__getattribute__

        def get(self: BaseModel, name: str) -> Any:
            if watched.at_work and (name in record.model_fields or name == "to_dict"):
                for each in record.model_fields if name == "to_dict" else (name,):
                    note(self, f"{record.__name__}.{each}")
            return original(self, name)

        monkeypatch.setattr(record, "__getattribute__", get)

    def around(stage: type[Any]) -> None:
        original = stage.run

        def run(self: Stage[Any], *arguments: Any) -> Any:
            watched.at_work.append(self.name)
            try:
                return original(self, *arguments)
            finally:
                watched.at_work.pop()

        monkeypatch.setattr(stage, "run", run)

    for record in RECORDS:
        spy(record, watched.note)
    for record in (DeploymentProfile, CalibrationRecipe):
        spy(record, watched.note_request)
    for stage in {type(each) for each in EVERY}:
        around(stage)
    return watched


def unread(watched: Watch, *stages: Stage[Any]) -> dict[str, set[str]]:
    """Stage -> fields of its settings that it did not read."""
    found = {stage.name: fields(_record(stage)) - watched.read.get(stage.name, set()) - set(UNREAD) for stage in stages}
    return {name: each for name, each in found.items() if each}


def _record(stage: Stage[Any]) -> type[BaseModel]:
    """The record ``S`` of a ``Stage[S]``."""
    (found,) = typing.get_args(type(stage).__orig_bases__[0])  # type: ignore[attr-defined]
    return found


@pytest.mark.usefixtures("in_process")
class TestWhatStagesRead:
    def test_of_an_onnx_file(
        self, tmp_path: Path, heard_all: Any, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every field of every stage's settings, over builds of one model; and nothing of the request."""
        world = World(tmp_path)
        write_world(world)
        jobs = [
            world.job(recipe={"method": "auto", "corrections": "none"}),
            world.job(recipe={"method": "percentile"}),
            world.job(precision="bf16"),
            world.job(precision="fp32", recipe={"data": {}, "evaluation": None}),
        ]
        best = world.job(precision="best")
        watch.jobs += [*jobs, best]
        for job in jobs:
            world.run(job, heard_all)
        monkeypatch.setattr(Null, "quick_reports", True)
        world.run(best, heard_all)
        with opened(best, heard_all) as pipeline:
            before = stages_named("export", "simplify", "observe", "calibrate")
            pipeline.run((*before, MeasureSensitivity()), {})
            pipeline.run((*before, *stages_named("lower"), Evaluate("lowered")), {})
        seen = [stage for stage in EVERY if stage.name not in ("export", "capture", "reference")]
        assert unread(watch, *seen) == {}
        assert watch.request_read == set()

    def test_of_a_pytorch_source(
        self, tmp_path: Path, heard_all: Any, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("torch")
        (tmp_path / "net.py").write_text("import torch\ndef net(): return torch.nn.Linear(4, 4), (torch.ones(2, 4),)\n")
        source = FactorySource(str(tmp_path / "net.py"), "net")
        settings = Settings(cache_dir=tmp_path / "cache")
        profile = DeploymentProfile.model_validate({"backend": "null", "precision": "fp16"})
        job = Job(source, profile, CalibrationRecipe(), "null", (find_target("sm89"),), settings=settings)
        watch.jobs.append(job)
        with opened(job, heard_all) as pipeline:
            pipeline.run(stages_named("export", "reference"), {})
            monkeypatch.setattr(Null, "consumes", "program")
            pipeline.run(stages_named("capture"), {})
        shapes = {"x": {"min": [1, 8, 8, 3], "opt": [2, 8, 8, 3], "max": [4, 8, 8, 3]}}
        of_a_file = {"backend": "null", "shapes": shapes, "build": {"fold_preprocessing": True}}
        file = OnnxSource(save(conv_net(), tmp_path / "net.onnx"))
        image = {"channels": "RGB", "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}
        recipe = CalibrationRecipe.model_validate({"data": {"image": image}})
        given = replace(job, source=file, profile=DeploymentProfile.model_validate(of_a_file), recipe=recipe)
        with opened(given, heard_all) as pipeline:
            pipeline.run(stages_named("export"), {})
        assert unread(watch, *stages_named("export", "capture", "reference")) == {}
        assert watch.request_read == set()


def write_world(world: World) -> None:
    from models import conv_net, save

    save(conv_net(), world.model)
    write_data(world.folder)
