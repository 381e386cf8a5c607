"""Torch-TensorRT: engines from PyTorch's own exported program, without ONNX, to compare the two routes by.

Two packages share the name ``torch_tensorrt``: ``torch-tensorrt`` on TensorRT, which builds on the GPU it builds for,
and ``torch-tensorrt-rtx`` on TensorRT-RTX, which can do without one.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from trtpipe.backends.base import Refusal, load_backend, missing
from trtpipe.backends.gpu import Gpu, cannot_run, gpus, has_driver
from trtpipe.backends.target_support import refuse_target
from trtpipe.backends.trt.options import refuse_options
from trtpipe.backends.trt.request import build_in_worker
from trtpipe.config.toolchain import version
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import HostError, InternalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trtpipe.backends.base import OpenRunner
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target
    from trtpipe.progress import Progress

_PACKAGES = ("torch-tensorrt-rtx", "torch-tensorrt")


class TorchTensorRT:
    """The room of Torch-TensorRT."""

    name = "torch-tensorrt"
    consumes: Literal["lowered", "program"] = "program"
    quick_reports = False

    @cached_property
    def _gpus(self) -> tuple[Gpu, ...]:
        return gpus()

    @property
    def flavor(self) -> Literal["tensorrt", "tensorrt-rtx"]:
        """The TensorRT whose engines it makes."""
        return "tensorrt-rtx" if version("torch-tensorrt-rtx") else "tensorrt"

    def fingerprint(self, settings: Settings) -> dict[str, str]:
        """Versions of the package, of torch and of its TensorRT; the GPUs where they decide."""
        package = next((name for name in _PACKAGES if version(name)), "")
        found = {
            self.name: f"{package} {version(package)}" if package else "absent",
            "torch": version("torch") or "absent",
            self.flavor: version(self.flavor) or "absent",
        }
        here = ", ".join(f"{gpu.name} ({gpu.target})" for gpu in self._gpus)
        return found if self.flavor == "tensorrt-rtx" else {**found, "gpu": here or "none"}

    def refuses(self, model: Path | None, profile: DeploymentProfile, target: Target) -> Refusal | None:
        """An ONNX graph, 8 bits, or a target that its TensorRT builds nothing for."""
        if model is not None and model.suffix == ".onnx":
            return Refusal(
                f"{model.name}: torch-tensorrt compiles PyTorch programs, and this is an ONNX graph",
                "give the model as a factory or a .pt2 file, or choose --backend tensorrt-rtx or tensorrt",
            )
        if profile.precision.quantized:
            return Refusal(
                f"torch-tensorrt knows nothing of our calibration: {profile.precision} there means a PyTorch model "
                "that was quantized beforehand",
                "build it with --fp16, --bf16 or --fp32, or choose --backend tensorrt-rtx or tensorrt",
            )
        here = version(self.flavor) or ""
        support = target.rtx if self.flavor == "tensorrt-rtx" else target.tensorrt
        if refusal := refuse_target(self.flavor, support, here, target):
            return refusal
        if refusal := refuse_options(profile.build, self.flavor, here, target, driver=has_driver()):
            return refusal
        if self.flavor == "tensorrt-rtx":
            return None
        if not any(gpu.capability == target.capability for gpu in self._gpus):
            return Refusal(
                f"torch-tensorrt builds on the GPU it builds for, and no {target} is here",
                "use a machine with that GPU, or install torch-tensorrt-rtx instead, which needs none",
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
        """Build in a worker process and write ``plan`` when it is complete.

        Args:
            model: a ``program.pt2`` with its JSON beside it.

        Raises:
            BuildError: the program cannot be built for ``target``; the message names the operators.
            InputError: the profile's shapes do not fit the program.
            WorkerError: the build crashed, took too long or too much memory.
            HostError: the package, its TensorRT or a GPU is missing, or the disk is full.
        """
        if model.suffix == ".onnx":
            raise InternalError("torch-tensorrt was asked to build from an ONNX graph")
        if self.flavor == "tensorrt" and not self._gpus:
            raise HostError("torch-tensorrt needs a GPU", "install torch-tensorrt-rtx, which builds without one")
        return build_in_worker(
            "trtpipe.backends.torch_tensorrt_build:build_task",
            self.flavor,
            model,
            profile,
            (target,),
            plan,
            settings,
            progress,
            opens=self.flavor == "tensorrt",
            confined=False,  # PyTorch writes caches of its own
        )

    @contextmanager
    def open(self, model: Path, settings: Settings) -> Iterator[OpenRunner]:
        """Open a plan on this machine's GPU, by its own TensorRT.

        Raises:
            HostError: there is no driver, or the plan was not built for this GPU.
        """
        if refusal := missing(self.flavor):
            raise HostError(refusal.reason, refusal.remedy)
        with load_backend(self.flavor).open(model, settings) as runner:
            yield runner
