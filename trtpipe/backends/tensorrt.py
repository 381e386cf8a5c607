"""TensorRT: builds engines on the GPU they are for, and runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.backends.base import EngineRequest, Refusal
from trtpipe.backends.target_support import refuse_graph
from trtpipe.backends.trt.backend import FlavorBackend
from trtpipe.backends.trt.flavor import Flavor
from trtpipe.backends.trt.request import build_in_worker
from trtpipe.backends.trt.timing_cache import TimingStore
from trtpipe.config.toolchain import version
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target
    from trtpipe.progress import Progress

_WITHOUT_GPU = "use --backend tensorrt-rtx, which needs no GPU to build, or a machine with the target's GPU"


class TensorRT(FlavorBackend):
    """Builds on the GPU it builds for."""

    name = "tensorrt"
    flavor: Flavor = "tensorrt"

    def fingerprint(self, settings: Settings) -> dict[str, str]:
        """The package's version and the GPUs: TensorRT selects kernels by timing them on the GPU."""
        return {self.name: version(self.name) or "absent", "gpu": ", ".join(map(str, self.gpus)) or "none"}

    def refuses(self, model: Path | None, profile: DeploymentProfile, target: Target) -> Refusal | None:
        """No GPU of the target here, a target or option this version lacks, or a type the target lacks.

        Raises:
            InputError: ``model`` is no readable ONNX file.
        """
        if refusal := self.lacks(profile, target):
            return refusal
        if not self.gpus:
            return Refusal("TensorRT builds on the GPU it builds for, and this machine has none", _WITHOUT_GPU)
        if self.gpu_for(target) is None:
            found = ", ".join(sorted({gpu.target for gpu in self.gpus}))
            return Refusal(
                f"TensorRT builds on the GPU it builds for: {target} is wanted, {found} is here", _WITHOUT_GPU
            )
        return None if model is None else refuse_graph(model, target)

    def refuses_nodes(self, model: Path, profile: DeploymentProfile, settings: Settings) -> Refusal | None:
        """As the parser says; without a GPU it does not start, and ``refuses`` says so."""
        from trtpipe.backends.trt.parser import ask_parser

        return ask_parser(model, profile, settings, self.flavor, confined=False) if self.gpus else None

    def build(self, request: EngineRequest, progress: Progress) -> EngineRecord:
        """Build for one target."""
        (target,) = request.targets
        gpu = self.gpu_for(target)
        if gpu is None:
            raise HostError(f"TensorRT needs an {target} GPU in this machine to build for it", _WITHOUT_GPU)
        mixed = len({other.capability for other in self.gpus}) > 1
        identity = {**self.fingerprint(request.settings), "device": gpu.name, "driver": gpu.driver}
        kept = request.profile.build.timing_cache is not False
        return build_in_worker(
            request,
            self.flavor,
            progress,
            device=gpu.uuid if mixed else "",
            timings=TimingStore.of(request.settings.cache_dir, identity) if kept else None,
            opens=True,
            confined=False,  # which files a CUDA driver reads differs between machines
        )
