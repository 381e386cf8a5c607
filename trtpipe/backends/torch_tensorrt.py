"""Torch-TensorRT: engines from a program exported by PyTorch, without ONNX.

Two packages are imported as ``torch_tensorrt``: ``torch-tensorrt`` uses TensorRT, which builds on the GPU it builds
for; ``torch-tensorrt-rtx`` uses TensorRT-RTX, which needs none.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from trtpipe.backends.base import Backend, Refusal, load_backend, missing
from trtpipe.backends.gpu import Gpu, cannot_run, gpus, has_driver
from trtpipe.backends.target_support import refuse_target
from trtpipe.backends.trt.options import refuse_options
from trtpipe.backends.trt.request import build_in_worker
from trtpipe.config.toolchain import version
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import HostError, InternalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from trtpipe.backends.base import OpenRunner
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target
    from trtpipe.progress import Progress

_PACKAGES = ("torch-tensorrt-rtx", "torch-tensorrt")


class TorchTensorRT(Backend):
    """Builds from PyTorch programs, with the TensorRT flavor that its package uses."""

    name = "torch-tensorrt"
    consumes: Literal["program"] = "program"

    @cached_property
    def _gpus(self) -> tuple[Gpu, ...]:
        return gpus()

    @property
    def flavor(self) -> Literal["tensorrt", "tensorrt-rtx"]:
        """The TensorRT flavor whose engines it builds."""
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
        """An ONNX graph, 8-bit quantization, or a target or option that its TensorRT flavor lacks."""
        if model is not None and model.suffix == ".onnx":
            return Refusal(
                f"{model.name}: torch-tensorrt compiles PyTorch programs, and this is an ONNX graph",
                "give the model as a factory or a .pt2 file, or choose --backend tensorrt-rtx or tensorrt",
            )
        if profile.precision.quantized:
            return Refusal(
                f"torch-tensorrt does not apply trtpipe's calibration: {profile.precision} there needs a PyTorch model "
                "that is already quantized",
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
        """Build in a worker process and write ``plan`` when it is complete.

        Args:
            model: a ``program.pt2`` with its JSON beside it.

        It raises what ``Backend.build`` raises; a BuildError names the operators.
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
            targets,
            plan,
            settings,
            progress,
            opens=self.flavor == "tensorrt",
            confined=False,  # PyTorch writes caches of its own
        )

    @contextmanager
    def open(self, model: Path, settings: Settings) -> Iterator[OpenRunner]:
        """Open a plan on this machine's GPU, with its TensorRT flavor.

        Raises:
            HostError: there is no driver, or the plan was not built for this GPU.
        """
        if refusal := missing(self.flavor):
            raise HostError(refusal.reason, refusal.remedy)
        with load_backend(self.flavor).open(model, settings) as runner:
            yield runner
