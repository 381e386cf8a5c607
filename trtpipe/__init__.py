"""trtpipe: from a PyTorch model to a verified TensorRT engine, in one command, on any build machine.

The public Python API. Names are loaded when first used, so importing the package costs almost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtpipe.accuracy.baseline import Baseline
    from trtpipe.accuracy.regression import CheckReport
    from trtpipe.accuracy.reports import ParityReport
    from trtpipe.api import (
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
    from trtpipe.api_accuracy import check, rejudge, save_baseline
    from trtpipe.api_calibration import calibrate, derive, import_trt_cache
    from trtpipe.api_latency import compare_latency
    from trtpipe.api_tuning import TuneResult, sensitivity, tune
    from trtpipe.artifact import Artifact, IOContract, TensorSpec
    from trtpipe.backends.base import EngineFacts
    from trtpipe.calibration.merging import merge_statistics
    from trtpipe.difference import BuildDiff, diff
    from trtpipe.doctor import Diagnosis, diagnose
    from trtpipe.errors import (
        BuildError,
        Cancelled,
        EnvironmentLacks,
        InputError,
        InternalError,
        OutOfMemory,
        OutOfTime,
        RecipeError,
        StageError,
        StoreCorrupt,
        TrtpipeError,
        WorkerCrashed,
        WorkerDied,
    )
    from trtpipe.inspection import Inspection, inspect
    from trtpipe.latency.reports import LatencyComparison, LatencyReport
    from trtpipe.pipeline import Step
    from trtpipe.profile import DeploymentProfile, ShapeRange
    from trtpipe.progress import Progress, Silent
    from trtpipe.quantization.sensitivity import Sensitivity
    from trtpipe.quantization.tuning_report import Budget, Tuning
    from trtpipe.recipe import CalibrationRecipe
    from trtpipe.report.manifest import Manifest
    from trtpipe.report.plots import plot_statistics
    from trtpipe.report.plots_sensitivity import plot_sensitivity
    from trtpipe.runs import BuildResult
    from trtpipe.settings import Settings
    from trtpipe.store import ArtifactStore
    from trtpipe.target import TARGETS, Target, find_target
    from trtpipe.views.page import write_report

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "trtpipe.artifact",
    "ArtifactStore": "trtpipe.store",
    "Baseline": "trtpipe.accuracy.baseline",
    "Budget": "trtpipe.quantization.tuning_report",
    "BuildDiff": "trtpipe.difference",
    "BuildError": "trtpipe.errors",
    "BuildResult": "trtpipe.runs",
    "CalibrationRecipe": "trtpipe.recipe",
    "CheckReport": "trtpipe.accuracy.regression",
    "DeploymentProfile": "trtpipe.profile",
    "Diagnosis": "trtpipe.doctor",
    "EngineFacts": "trtpipe.backends.base",
    "EnvironmentLacks": "trtpipe.errors",
    "IOContract": "trtpipe.artifact",
    "InputError": "trtpipe.errors",
    "Inspection": "trtpipe.inspection",
    "InternalError": "trtpipe.errors",
    "LatencyComparison": "trtpipe.latency.reports",
    "LatencyReport": "trtpipe.latency.reports",
    "Manifest": "trtpipe.report.manifest",
    "ParityReport": "trtpipe.accuracy.reports",
    "Progress": "trtpipe.progress",
    "RecipeError": "trtpipe.errors",
    "Sensitivity": "trtpipe.quantization.sensitivity",
    "Settings": "trtpipe.settings",
    "ShapeRange": "trtpipe.profile",
    "Silent": "trtpipe.progress",
    "StageError": "trtpipe.errors",
    "Step": "trtpipe.pipeline",
    "StoreCorrupt": "trtpipe.errors",
    "TARGETS": "trtpipe.target",
    "Target": "trtpipe.target",
    "TensorSpec": "trtpipe.artifact",
    "TrtpipeError": "trtpipe.errors",
    "TuneResult": "trtpipe.api_tuning",
    "Tuning": "trtpipe.quantization.tuning_report",
    "WorkerDied": "trtpipe.errors",
    "Cancelled": "trtpipe.errors",
    "OutOfMemory": "trtpipe.errors",
    "OutOfTime": "trtpipe.errors",
    "WorkerCrashed": "trtpipe.errors",
    "build": "trtpipe.api",
    "calibrate": "trtpipe.api_calibration",
    "check": "trtpipe.api_accuracy",
    "compare_latency": "trtpipe.api_latency",
    "compile": "trtpipe.api",
    "derive": "trtpipe.api_calibration",
    "diagnose": "trtpipe.doctor",
    "diff": "trtpipe.difference",
    "export": "trtpipe.api",
    "find_target": "trtpipe.target",
    "import_trt_cache": "trtpipe.api_calibration",
    "inspect": "trtpipe.inspection",
    "lower": "trtpipe.api",
    "make_job": "trtpipe.api",
    "measure": "trtpipe.api",
    "merge_statistics": "trtpipe.calibration.merging",
    "plan": "trtpipe.api",
    "plot_sensitivity": "trtpipe.report.plots_sensitivity",
    "plot_statistics": "trtpipe.report.plots",
    "rejudge": "trtpipe.api_accuracy",
    "save_baseline": "trtpipe.api_accuracy",
    "sensitivity": "trtpipe.api_tuning",
    "simplify": "trtpipe.api",
    "tune": "trtpipe.api_tuning",
    "verify": "trtpipe.api",
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
    "EngineFacts",
    "EnvironmentLacks",
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
    "Silent",
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
    "WorkerDied",
    "build",
    "calibrate",
    "check",
    "compare_latency",
    "compile",
    "derive",
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
    "rejudge",
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
