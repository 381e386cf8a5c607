"""trtpipe: from a PyTorch model to a verified TensorRT engine, in one command, on any build machine.

The public Python API. Names are loaded when first used, so importing the package costs almost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtpipe.accuracy.reports import ParityReport
    from trtpipe.api.calibration import calibrate, import_trt_cache, ranges_from_statistics
    from trtpipe.api.check import check, reevaluate, save_baseline
    from trtpipe.api.diff import BuildDiff, diff
    from trtpipe.api.doctor import Diagnosis, diagnose
    from trtpipe.api.inspection import Inspection, inspect
    from trtpipe.api.latency import compare_latency
    from trtpipe.api.results import BuildResult
    from trtpipe.api.stages import (
        build,
        compile,  # noqa: A004  the pipeline's own word
        export,
        lower,
        make_job,
        measure,
        plan,
        simplify,
        verify,
    )
    from trtpipe.api.tuning import TuneResult, sensitivity, tune
    from trtpipe.artifact import Artifact, IOContract, TensorSpec
    from trtpipe.calibration.statistics_file import merge_statistics
    from trtpipe.config.profile import DeploymentProfile, ShapeRange
    from trtpipe.config.recipe import CalibrationRecipe
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import TARGETS, Target, find_target
    from trtpipe.engine.record import EngineRecord
    from trtpipe.errors import (
        BuildError,
        Cancelled,
        HostError,
        InputError,
        InternalError,
        OutOfMemory,
        OutOfTime,
        RecipeError,
        StageError,
        StoreCorrupt,
        TrtpipeError,
        WorkerCrashed,
        WorkerError,
    )
    from trtpipe.latency.reports import LatencyComparison, LatencyReport
    from trtpipe.pipeline.pipeline import Step
    from trtpipe.progress import NullProgress, Progress
    from trtpipe.quantization.sensitivity import Sensitivity
    from trtpipe.quantization.tuning_report import Budget, Tuning
    from trtpipe.regression.baseline import Baseline
    from trtpipe.regression.gate import CheckReport
    from trtpipe.report.manifest import Manifest
    from trtpipe.report.plots import plot_sensitivity, plot_statistics
    from trtpipe.store import ArtifactStore
    from trtpipe.views.page import write_report

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "trtpipe.artifact",
    "ArtifactStore": "trtpipe.store",
    "Baseline": "trtpipe.regression.baseline",
    "Budget": "trtpipe.quantization.tuning_report",
    "BuildDiff": "trtpipe.api.diff",
    "BuildError": "trtpipe.errors",
    "BuildResult": "trtpipe.api.results",
    "CalibrationRecipe": "trtpipe.config.recipe",
    "CheckReport": "trtpipe.regression.gate",
    "DeploymentProfile": "trtpipe.config.profile",
    "Diagnosis": "trtpipe.api.doctor",
    "EngineRecord": "trtpipe.engine.record",
    "HostError": "trtpipe.errors",
    "IOContract": "trtpipe.artifact",
    "InputError": "trtpipe.errors",
    "Inspection": "trtpipe.api.inspection",
    "InternalError": "trtpipe.errors",
    "LatencyComparison": "trtpipe.latency.reports",
    "LatencyReport": "trtpipe.latency.reports",
    "Manifest": "trtpipe.report.manifest",
    "ParityReport": "trtpipe.accuracy.reports",
    "Progress": "trtpipe.progress",
    "RecipeError": "trtpipe.errors",
    "Sensitivity": "trtpipe.quantization.sensitivity",
    "Settings": "trtpipe.config.settings",
    "ShapeRange": "trtpipe.config.profile",
    "NullProgress": "trtpipe.progress",
    "StageError": "trtpipe.errors",
    "Step": "trtpipe.pipeline.pipeline",
    "StoreCorrupt": "trtpipe.errors",
    "TARGETS": "trtpipe.config.target",
    "Target": "trtpipe.config.target",
    "TensorSpec": "trtpipe.artifact",
    "TrtpipeError": "trtpipe.errors",
    "TuneResult": "trtpipe.api.tuning",
    "Tuning": "trtpipe.quantization.tuning_report",
    "WorkerError": "trtpipe.errors",
    "Cancelled": "trtpipe.errors",
    "OutOfMemory": "trtpipe.errors",
    "OutOfTime": "trtpipe.errors",
    "WorkerCrashed": "trtpipe.errors",
    "build": "trtpipe.api.stages",
    "calibrate": "trtpipe.api.calibration",
    "check": "trtpipe.api.check",
    "compare_latency": "trtpipe.api.latency",
    "compile": "trtpipe.api.stages",
    "ranges_from_statistics": "trtpipe.api.calibration",
    "diagnose": "trtpipe.api.doctor",
    "diff": "trtpipe.api.diff",
    "export": "trtpipe.api.stages",
    "find_target": "trtpipe.config.target",
    "import_trt_cache": "trtpipe.api.calibration",
    "inspect": "trtpipe.api.inspection",
    "lower": "trtpipe.api.stages",
    "make_job": "trtpipe.api.stages",
    "measure": "trtpipe.api.stages",
    "merge_statistics": "trtpipe.calibration.statistics_file",
    "plan": "trtpipe.api.stages",
    "plot_sensitivity": "trtpipe.report.plots",
    "plot_statistics": "trtpipe.report.plots",
    "reevaluate": "trtpipe.api.check",
    "save_baseline": "trtpipe.api.check",
    "sensitivity": "trtpipe.api.tuning",
    "simplify": "trtpipe.api.stages",
    "tune": "trtpipe.api.tuning",
    "verify": "trtpipe.api.stages",
    "write_report": "trtpipe.views.page",
}

__all__ = [  # noqa: RUF022  sorted by a test
    "Artifact",
    "ArtifactStore",
    "Baseline",
    "Budget",
    "BuildDiff",
    "BuildError",
    "BuildResult",
    "CalibrationRecipe",
    "Cancelled",
    "CheckReport",
    "DeploymentProfile",
    "Diagnosis",
    "EngineRecord",
    "HostError",
    "IOContract",
    "InputError",
    "Inspection",
    "InternalError",
    "LatencyComparison",
    "LatencyReport",
    "Manifest",
    "OutOfMemory",
    "OutOfTime",
    "ParityReport",
    "Progress",
    "RecipeError",
    "Sensitivity",
    "Settings",
    "ShapeRange",
    "NullProgress",
    "StageError",
    "Step",
    "StoreCorrupt",
    "TARGETS",
    "Target",
    "TensorSpec",
    "TrtpipeError",
    "TuneResult",
    "Tuning",
    "WorkerCrashed",
    "WorkerError",
    "build",
    "calibrate",
    "check",
    "compare_latency",
    "compile",
    "ranges_from_statistics",
    "diagnose",
    "diff",
    "export",
    "find_target",
    "import_trt_cache",
    "inspect",
    "lower",
    "make_job",
    "measure",
    "merge_statistics",
    "plan",
    "plot_sensitivity",
    "plot_statistics",
    "reevaluate",
    "save_baseline",
    "sensitivity",
    "simplify",
    "tune",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'trtpipe' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
