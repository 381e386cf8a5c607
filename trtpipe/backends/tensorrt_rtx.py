"""TensorRT-RTX: builds engines for GeForce and RTX GPUs on any machine; opening one needs a GPU."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trtpipe.backends._onnx_types import find_float32_product, refuse_types
from trtpipe.backends._trt_builder import BuildRequest, build, build_in_worker
from trtpipe.backends._trt_runner import open_engine, require_driver
from trtpipe.backends.base import EngineFacts, Refusal
from trtpipe.backends.gpu import cannot_run
from trtpipe.backends.plan import RTX_TARGETS, check_rtx_plan
from trtpipe.backends.worker import Report
from trtpipe.errors import BuildError, EnvironmentLacks
from trtpipe.toolchain import version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.backends.base import Runner
    from trtpipe.profile import DeploymentProfile
    from trtpipe.progress import Progress
    from trtpipe.settings import Settings
    from trtpipe.target import Target

_TURING = "sm75"


class TensorRTRTX:
    """The room of TensorRT-RTX."""

    name = "tensorrt-rtx"
    consumes: Literal["lowered", "program"] = "lowered"
    quick_reports = True

    def fingerprint(self, settings: Settings) -> dict[str, str]:
        """The package's version: the machine does not matter."""
        return {self.name: version(self.name) or "absent"}

    def refuses(self, model: Path | None, profile: DeploymentProfile, target: Target) -> Refusal | None:
        """A target TensorRT-RTX does not know, or an element type the target cannot compute.

        Raises:
            InputError: ``model`` is no readable ONNX file.
        """
        if target.name not in RTX_TARGETS:
            return Refusal(
                f"TensorRT-RTX builds no engines for {target} ({target.family})",
                f"use --backend tensorrt on a machine with that GPU, or a target it knows: {', '.join(RTX_TARGETS)}",
            )
        if model is None:
            return None
        if refusal := refuse_types(model, target):
            return refusal
        node = find_float32_product(model) if target.name == _TURING else None
        if node is not None:
            return Refusal(
                f"{model.name}: node {node!r} multiplies float32 matrices, which TensorRT-RTX cannot for {target}",
                "build with --fp16, or leave sm75 out of the targets",
            )
        return None

    def runs(self, target: Target) -> Refusal | None:
        """Whether a GPU of the target's kind is here."""
        return cannot_run(target)

    def build(
        self,
        model: Path,
        profile: DeploymentProfile,
        target: Target,
        plan: Path,
        settings: Settings,
        progress: Progress,
    ) -> EngineFacts:
        """Build in a worker process and write ``plan`` when it is complete and its header is right.

        Raises:
            BuildError: the graph cannot be built for ``target``.
            InputError: the profile's shapes do not fit the model.
            WorkerDied: the build crashed, took too long or too much memory.
            EnvironmentLacks: TensorRT-RTX cannot be loaded, or the disk is full.
        """
        return build_in_worker(
            "trtpipe.backends.tensorrt_rtx:build_task", self.name, model, profile, target, plan, settings, progress
        )

    @contextmanager
    def open(self, model: Path, settings: Settings) -> Iterator[Runner]:
        """Open a plan on this machine's GPU.

        Raises:
            EnvironmentLacks: there is no driver, or the plan was not built for this GPU.
        """
        require_driver("TensorRT-RTX")
        with open_engine(_load(), model, self.name) as runner:
            yield runner


def build_task(request: BuildRequest, report: Report) -> EngineFacts:
    """Build one engine (in the worker process)."""
    trt = _load()

    def for_target(config: Any) -> None:
        capability = getattr(trt.ComputeCapability, request.target.upper(), None)
        config.num_compute_capabilities = 1
        if capability is None or not config.set_compute_capability(capability, 0):
            raise BuildError(
                f"TensorRT-RTX {trt.__version__} builds no engines for {request.target}", "choose another target"
            )

    facts = build(trt, request, report, for_target)
    unchecked = check_rtx_plan(Path(request.plan), request.target)
    return facts.model_copy(update={"warnings": (*facts.warnings, *unchecked)})


def _load() -> Any:
    try:
        import tensorrt_rtx
    except (ImportError, OSError) as error:
        raise EnvironmentLacks(f"TensorRT-RTX cannot be loaded: {error}", "pip install 'trtpipe[rtx]'") from error
    return tensorrt_rtx
