"""Torch-TensorRT: engines from a program exported by PyTorch, without ONNX.

Two packages are imported as ``torch_tensorrt``: ``torch-tensorrt`` uses TensorRT, which builds on the GPU it builds
for; ``torch-tensorrt-rtx`` uses TensorRT-RTX, which needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from trtpipe.backends.base import EngineRequest, Refusal
from trtpipe.backends.trt.backend import FlavorBackend
from trtpipe.backends.trt.flavor import Flavor
from trtpipe.backends.trt.request import build_in_worker
from trtpipe.config.toolchain import version
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import HostError, InternalError

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target
    from trtpipe.progress import Progress

_PACKAGES = ("torch-tensorrt-rtx", "torch-tensorrt")


class TorchTensorRT(FlavorBackend):
    """Builds from PyTorch programs, with the TensorRT flavor that its package uses."""

    name = "torch-tensorrt"
    consumes: Literal["program"] = "program"

    @property
    def flavor(self) -> Flavor:
        """The flavor that its package uses."""
        return "tensorrt-rtx" if version("torch-tensorrt-rtx") else "tensorrt"

    def fingerprint(self, settings: Settings) -> dict[str, str]:
        """Versions of the package, of torch and of its TensorRT; the GPUs where they decide."""
        package = next((name for name in _PACKAGES if version(name)), "")
        found = {
            self.name: f"{package} {version(package)}" if package else "absent",
            "torch": version("torch") or "absent",
            self.flavor: version(self.flavor) or "absent",
        }
        if self.flavor == "tensorrt":
            found["gpu"] = ", ".join(map(str, self.gpus)) or "none"
        return found

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
        if refusal := self.lacks(profile, target):
            return refusal
        if self.flavor == "tensorrt" and self.gpu_for(target) is None:
            return Refusal(
                f"torch-tensorrt builds on the GPU it builds for, and no {target} is here",
                "use a machine with that GPU, or install torch-tensorrt-rtx instead, which needs none",
            )
        return None

    def build(self, request: EngineRequest, progress: Progress) -> EngineRecord:
        """Build from a ``program.pt2`` with its JSON beside it; a BuildError names the operators."""
        if request.model.suffix == ".onnx":
            raise InternalError("torch-tensorrt was asked to build from an ONNX graph")
        if self.flavor == "tensorrt" and not self.gpus:
            raise HostError("torch-tensorrt needs a GPU", "install torch-tensorrt-rtx, which builds without one")
        return build_in_worker(
            request,
            self.flavor,
            progress,
            task="trtpipe.backends.torch_tensorrt_build:build_task",
            opens=self.flavor == "tensorrt",
            confined=False,  # PyTorch writes caches of its own
        )
