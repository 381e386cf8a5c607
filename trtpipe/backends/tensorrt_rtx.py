"""TensorRT-RTX: builds engines for RTX GPUs on any machine; opening one needs a GPU."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trtpipe.backends.base import Backend, Refusal
from trtpipe.backends.engine_file import check_rtx_plan
from trtpipe.backends.gpu import cannot_run, has_driver
from trtpipe.backends.target_support import find_float32_product, refuse_misread, refuse_target, refuse_types
from trtpipe.backends.trt.builder import Configure, build
from trtpipe.backends.trt.options import refuse_options
from trtpipe.backends.trt.request import BuildRequest, build_in_worker
from trtpipe.backends.trt.runner import open_engine, require_driver
from trtpipe.config.toolchain import version
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import BuildError, HostError
from trtpipe.isolation.worker import Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trtpipe.backends.base import OpenRunner
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target
    from trtpipe.progress import Progress

_TURING = "sm75"


class TensorRTRTX(Backend):
    """Builds without a GPU, for one target or for several at once."""

    name: Final = "tensorrt-rtx"
    quick_reports = True

    def fingerprint(self, settings: Settings) -> dict[str, str]:
        """The package's version: an engine does not depend on the machine."""
        return {self.name: version(self.name) or "absent"}

    def refuses(self, model: Path | None, profile: DeploymentProfile, target: Target) -> Refusal | None:
        """A target or an option TensorRT-RTX does not know, or an element type the target cannot compute.

        Raises:
            InputError: ``model`` is no readable ONNX file.
        """
        here = version(self.name) or ""
        if refusal := refuse_target("TensorRT-RTX", target.rtx, here, target):
            return refusal
        if refusal := refuse_options(profile.build, self.name, here, target, driver=has_driver()):
            return refusal
        if model is None:
            return None
        if refusal := refuse_types(model, target) or refuse_misread(model):
            return refusal
        node = find_float32_product(model) if target.name == _TURING else None
        if node is not None:
            return Refusal(
                f"{model.name}: node {node!r} multiplies float32 matrices, which TensorRT-RTX cannot for {target}",
                "build with --fp16, or leave sm75 out of the targets",
            )
        return None

    def runs(self, target: Target) -> Refusal | None:
        """Whether a GPU of the target is here."""
        return cannot_run(target)

    def shareable(self, targets: Sequence[Target]) -> tuple[Target, ...]:
        """All but Turing: a shared plan is compiled for its least capable target (NVIDIA's support matrix)."""
        return tuple(target for target in targets if target.rtx is not None and target.name != _TURING)

    def build(
        self,
        model: Path,
        profile: DeploymentProfile,
        targets: Sequence[Target],
        plan: Path,
        settings: Settings,
        progress: Progress,
    ) -> EngineRecord:
        """Build in a worker process and write ``plan`` when it is complete and its header is right.

        It raises what ``Backend.build`` raises.
        """
        task = "trtpipe.backends.tensorrt_rtx:build_task"
        return build_in_worker(task, self.name, model, profile, targets, plan, settings, progress)

    @contextmanager
    def open(self, model: Path, settings: Settings) -> Iterator[OpenRunner]:
        """Open a plan on this machine's GPU.

        Raises:
            HostError: there is no driver, or the plan was not built for this GPU.
        """
        require_driver("TensorRT-RTX")
        with open_engine(_load(), model, self.name) as runner:
            yield runner


def build_task(request: BuildRequest, report: Report) -> EngineRecord:
    """Build one engine (in the worker process)."""
    trt = _load()
    return checked(build(trt, request, report, set_capabilities(trt, request)), request)


def set_capabilities(trt: Any, request: BuildRequest) -> Configure:
    """Name the compute capabilities to build for: without them TensorRT-RTX builds for the GPU that is here."""

    def configure(config: Any) -> None:
        config.num_compute_capabilities = len(request.targets)
        for index, target in enumerate(request.targets):
            capability = getattr(trt.ComputeCapability, target.upper(), None)  # every version knows other GPUs
            if capability is None or not config.set_compute_capability(capability, index):
                raise BuildError(
                    f"TensorRT-RTX {trt.__version__} builds no engines for {target}", "choose another target"
                )

    return configure


def checked(record: EngineRecord, request: BuildRequest) -> EngineRecord:
    """The record of an engine whose header was checked, with a warning where it could not be.

    Raises:
        BuildError: the plan is truncated, or for other targets.
    """
    unchecked = check_rtx_plan(Path(request.plan), request.targets)
    return record.model_copy(update={"warnings": (*record.warnings, *unchecked)})


def _load() -> Any:
    try:
        import tensorrt_rtx
    except (ImportError, OSError) as error:
        raise HostError(f"TensorRT-RTX cannot be loaded: {error}", "pip install 'trtpipe[rtx]'") from error
    return tensorrt_rtx
