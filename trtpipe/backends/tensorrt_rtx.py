"""TensorRT-RTX: builds engines for RTX GPUs on any machine; opening one needs a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.backends.base import EngineRequest, Refusal
from trtpipe.backends.target_support import find_float32_product, refuse_graph
from trtpipe.backends.trt.backend import FlavorBackend
from trtpipe.backends.trt.flavor import Flavor
from trtpipe.backends.trt.request import build_in_worker
from trtpipe.config.toolchain import version
from trtpipe.engine.record import EngineRecord

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target
    from trtpipe.progress import Progress

_TURING = "sm75"


class TensorRTRTX(FlavorBackend):
    """Builds without a GPU, for one target or for several at once."""

    name = "tensorrt-rtx"
    flavor: Flavor = "tensorrt-rtx"
    quick_reports = True

    def fingerprint(self, settings: Settings) -> dict[str, str]:
        """The package's version: an engine does not depend on the machine."""
        return {self.name: version(self.name) or "absent"}

    def refuses(self, model: Path | None, profile: DeploymentProfile, target: Target) -> Refusal | None:
        """A target or an option TensorRT-RTX does not know, or an element type the target cannot compute.

        Raises:
            InputError: ``model`` is no readable ONNX file.
        """
        refusal = self.lacks(profile, target) or (None if model is None else refuse_graph(model, target))
        if refusal or model is None or target.name != _TURING:
            return refusal
        if (node := find_float32_product(model)) is None:
            return None
        return Refusal(
            f"{model.name}: node {node!r} multiplies float32 matrices, which TensorRT-RTX cannot for {target}",
            "build with --fp16, or leave sm75 out of the targets",
        )

    def refuses_nodes(self, model: Path, profile: DeploymentProfile, settings: Settings) -> Refusal | None:
        from trtpipe.backends.trt.parser import ask_parser

        return ask_parser(model, profile, settings, self.flavor, confined=True)

    def shareable(self, targets: Sequence[Target]) -> tuple[Target, ...]:
        """All but Turing: a shared plan is compiled for its least capable target (NVIDIA's support matrix)."""
        return tuple(target for target in targets if target.rtx is not None and target.name != _TURING)

    def build(self, request: EngineRequest, progress: Progress) -> EngineRecord:
        return build_in_worker(request, self.flavor, progress)
