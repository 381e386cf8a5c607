"""TensorRT: builds engines on the GPU they are for, and runs them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from trtpipe.backends.base import Backend, Refusal
from trtpipe.backends.gpu import Gpu, cannot_run, gpus
from trtpipe.backends.target_support import refuse_misread, refuse_target, refuse_types
from trtpipe.backends.trt.builder import build
from trtpipe.backends.trt.options import refuse_options
from trtpipe.backends.trt.request import BuildRequest, build_in_worker
from trtpipe.backends.trt.runner import open_engine, require_driver
from trtpipe.backends.trt.timing_cache import TimingStore
from trtpipe.config.toolchain import version
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import HostError
from trtpipe.isolation.worker import Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from trtpipe.backends.base import OpenRunner
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target
    from trtpipe.progress import Progress

_WITHOUT_GPU = "use --backend tensorrt-rtx, which needs no GPU to build, or a machine with the target's GPU"


class TensorRT(Backend):
    """Builds on the GPU it builds for."""

    name: Final = "tensorrt"

    @cached_property
    def _gpus(self) -> tuple[Gpu, ...]:
        return gpus()

    def fingerprint(self, settings: Settings) -> dict[str, str]:
        """The package's version and the GPUs: TensorRT selects kernels by timing them on the GPU."""
        found = ", ".join(f"{gpu.name} ({gpu.target})" for gpu in self._gpus)
        return {self.name: version(self.name) or "absent", "gpu": found or "none"}

    def refuses(self, model: Path | None, profile: DeploymentProfile, target: Target) -> Refusal | None:
        """No GPU of the target here, a target or option this version lacks, or a type the target lacks.

        Raises:
            InputError: ``model`` is no readable ONNX file.
        """
        here = version(self.name) or ""
        if refusal := refuse_target("TensorRT", target.tensorrt, here, target):
            return refusal
        if refusal := refuse_options(profile.build, self.name, here, target, driver=True):
            return refusal
        if not self._gpus:
            return Refusal("TensorRT builds on the GPU it builds for, and this machine has none", _WITHOUT_GPU)
        if self._gpu_for(target) is None:
            found = ", ".join(sorted({gpu.target for gpu in self._gpus}))
            return Refusal(
                f"TensorRT builds on the GPU it builds for: {target} is wanted, {found} is here", _WITHOUT_GPU
            )
        return None if model is None else refuse_types(model, target) or refuse_misread(model)

    def runs(self, target: Target) -> Refusal | None:
        """Whether a GPU of the target is here."""
        return cannot_run(target)

    def build(
        self,
        model: Path,
        profile: DeploymentProfile,
        targets: Sequence[Target],
        plan: Path,
        settings: Settings,
        progress: Progress,
    ) -> EngineRecord:
        """Build in a worker process, for one target, and write ``plan`` when it is complete.

        It raises what ``Backend.build`` raises.
        """
        (target,) = targets
        gpu = self._gpu_for(target)
        if gpu is None:
            raise HostError(f"TensorRT needs an {target} GPU in this machine to build for it", _WITHOUT_GPU)
        mixed = len({other.capability for other in self._gpus}) > 1
        identity = {**self.fingerprint(settings), "device": gpu.name, "driver": gpu.driver}
        kept = TimingStore.of(settings.cache_dir, identity) if profile.build.timing_cache is not False else None
        return build_in_worker(
            "trtpipe.backends.tensorrt:build_task",
            self.name,
            model,
            profile,
            targets,
            plan,
            settings,
            progress,
            device=gpu.uuid if mixed else "",
            timings=kept,
            opens=True,
            confined=False,  # which files a CUDA driver reads differs between machines
        )

    @contextmanager
    def open(self, model: Path, settings: Settings) -> Iterator[OpenRunner]:
        """Open a plan on this machine's GPU.

        Raises:
            HostError: there is no driver, or the plan was not built for this GPU and TensorRT.
        """
        require_driver("TensorRT")
        with open_engine(_load(), model, self.name) as runner:
            yield runner

    def _gpu_for(self, target: Target) -> Gpu | None:
        return next((gpu for gpu in self._gpus if gpu.capability == target.capability), None)


def build_task(request: BuildRequest, report: Report) -> EngineRecord:
    """Build one engine (in the worker process)."""
    if request.device:
        os.putenv("CUDA_VISIBLE_DEVICES", request.device)  # before the CUDA driver reads it
    return build(_load(), request, report)


def _load() -> Any:
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise HostError(
            f"TensorRT cannot be loaded: {error}", "pip install 'trtpipe[tensorrt]'; without a GPU: 'trtpipe[rtx]'"
        ) from error
    return tensorrt
