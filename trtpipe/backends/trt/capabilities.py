"""Which GPUs TensorRT-RTX is to build for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtpipe.errors import BuildError

if TYPE_CHECKING:
    from trtpipe.backends.trt.builder import Configure
    from trtpipe.backends.trt.request import BuildRequest


def for_capabilities(trt: Any, request: BuildRequest) -> Configure:
    """TensorRT-RTX builds for the capabilities it is told, not for the GPU that is here."""

    def configure(config: Any) -> None:
        config.num_compute_capabilities = len(request.targets)
        for index, target in enumerate(request.targets):
            capability = getattr(trt.ComputeCapability, target.upper(), None)
            if capability is None or not config.set_compute_capability(capability, index):
                raise BuildError(
                    f"TensorRT-RTX {trt.__version__} builds no engines for {target}", "choose another target"
                )

    return configure
