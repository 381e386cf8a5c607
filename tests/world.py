"""A folder with a model, data and a cache, to build in again and again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from models import conv_net, normal, run

from trtpipe.api.request import make_job
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.pipeline.pipeline import opened, stages_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.config.job import Job
    from trtpipe.pipeline.pipeline import Step
    from trtpipe.progress import Progress

SHAPES = {"x": {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [8, 3, 8, 8]}}
WIDER = {"x": {"min": [1, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [9, 3, 8, 8]}}
PROFILE = {
    "precision": "int8",
    "targets": ["sm89"],
    "backend": "null",
    "shapes": SHAPES,
    "latency": {"warmup": 0.0001, "duration": 0.001, "cpu": True},
    "tolerance": {"atol": 100.0},
}
EXPORT, SIMPLIFY, OBSERVE, CALIBRATE, LOWER, COMPILE, VERIFY, MEASURE, BUNDLE = (
    "export", "simplify", "observe", "calibrate", "lower", "compile sm89", "verify", "measure", "bundle"
)  # fmt: skip
ALL = (EXPORT, SIMPLIFY, OBSERVE, CALIBRATE, LOWER, COMPILE, VERIFY, MEASURE, BUNDLE)
AFTER_LOWER = (LOWER, COMPILE, VERIFY, MEASURE, BUNDLE)


@dataclass(frozen=True)
class World:
    """A folder with a model, data and a cache."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "net.onnx"

    def job(self, **options: Any) -> Job:
        """The usual job with changes: fields of the profile, and ``recipe``, ``source``, ``settings``, ``simplify``."""
        recipe = {"data": {"source": str(self.folder / "calib.npz"), "batch": 4},
                  "evaluation": {"source": str(self.folder / "eval.npz"), "labels": "labels", "batch": 8}}  # fmt: skip
        recipe |= options.pop("recipe", {})
        own = {name: options.pop(name) for name in ("simplify", "allow_random") if name in options}
        source = options.pop("source", self.model)
        settings = options.pop("settings", Settings(cache_dir=self.folder / "cache"))
        return make_job(
            source if isinstance(source, tuple) or source is None else str(source),
            profile=DeploymentProfile.model_validate(PROFILE | options),
            recipe=CalibrationRecipe.model_validate(recipe),
            settings=settings,
            **own,
        )

    def run(self, job: Job, listener: Progress) -> tuple[Step, ...]:
        with opened(job, listener) as pipeline:
            return pipeline.run(stages_for(job), {})

    def plan(self, job: Job, listener: Progress) -> tuple[Step, ...]:
        with opened(job, listener) as pipeline:
            return pipeline.plan(stages_for(job), {})


def asked(job: Job) -> dict[str, Any]:
    """What a job was made of, for the functions that take no job."""
    return {"profile": job.profile, "recipe": job.recipe, "settings": job.settings}


def write_data(folder: Path, seed: int = 0) -> None:
    x = normal(24, 3, 8, 8, seed=seed)
    np.savez(folder / "calib.npz", x=x)
    held_out = normal(16, 3, 8, 8, seed=seed + 100)
    np.savez(folder / "eval.npz", x=held_out, labels=run(conv_net(), {"x": held_out})["y"].argmax(axis=1))


def states(steps: Iterable[Step]) -> dict[str, str]:
    return {step.label: step.state for step in steps}


def built_steps(steps: Iterable[Step]) -> tuple[str, ...]:
    return tuple(step.label for step in steps if step.state == "built")


def content(folder: Path) -> dict[str, bytes]:
    """Files by name, but for what is under this user's key, and what tells when and where they were made."""
    apart = (".trtpipe.json", "provenance.json", "reproduce.sh")
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in apart)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
