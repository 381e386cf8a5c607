"""TensorRT-RTX: builds engines for GeForce and RTX GPUs on any machine; opening one needs a GPU."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from trtpipe.backends.base import Refusal
from trtpipe.backends.element_types import find_float32_product, refuse_types
from trtpipe.backends.gpu import cannot_run, has_driver
from trtpipe.backends.plan import check_rtx_plan
from trtpipe.backends.target_support import refuse_target
from trtpipe.backends.trt.builder import build
from trtpipe.backends.trt.capabilities import for_capabilities
from trtpipe.backends.trt.options import refuse_options
from trtpipe.backends.trt.request import BuildRequest, build_in_worker
from trtpipe.backends.trt.runner import open_engine, require_driver
from trtpipe.config.toolchain import version
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import HostError
from trtpipe.isolation.worker import Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trtpipe.backends.base import Runner
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target
    from trtpipe.progress import Progress

_TURING = "sm75"


class TensorRTRTX:
    """The room of TensorRT-RTX."""

    name: Final = "tensorrt-rtx"
    consumes: Literal["lowered", "program"] = "lowered"
    quick_reports = True

    def fingerprint(self, settings: Settings) -> dict[str, str]:
        """The package's version: the machine does not matter."""
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
    ) -> EngineRecord:
        """Build in a worker process and write ``plan`` when it is complete and its header is right.

        Raises:
            BuildError: the graph cannot be built for ``target``.
            InputError: the profile's shapes do not fit the model.
            WorkerError: the build crashed, took too long or too much memory.
            HostError: TensorRT-RTX cannot be loaded, or the disk is full.
        """
        return self.build_shared(model, profile, (target,), plan, settings, progress)

    def shareable(self, targets: Sequence[Target]) -> tuple[Target, ...]:
        """All but Turing, which a shared plan would be cut down to, as NVIDIA's support matrix warns."""
        return tuple(target for target in targets if target.rtx is not None and target.name != _TURING)

    def build_shared(
        self,
        model: Path,
        profile: DeploymentProfile,
        targets: Sequence[Target],
        plan: Path,
        settings: Settings,
        progress: Progress,
    ) -> EngineRecord:
        """One plan for several targets, which is compiled as for the least of them.

        Raises:
            TrtpipeError: as ``build`` does, if it cannot be built for one of ``targets``.
        """
        task = "trtpipe.backends.tensorrt_rtx:build_task"
        return build_in_worker(task, self.name, model, profile, targets, plan, settings, progress)

    @contextmanager
    def open(self, model: Path, settings: Settings) -> Iterator[Runner]:
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
    facts = build(trt, request, report, for_capabilities(trt, request))
    unchecked = check_rtx_plan(Path(request.plan), request.targets)
    return facts.model_copy(update={"warnings": (*facts.warnings, *unchecked)})


def _load() -> Any:
    try:
        import tensorrt_rtx
    except (ImportError, OSError) as error:
        raise HostError(f"TensorRT-RTX cannot be loaded: {error}", "pip install 'trtpipe[rtx]'") from error
    return tensorrt_rtx
