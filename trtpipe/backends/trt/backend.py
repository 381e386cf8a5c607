"""What the back-ends that build with a TensorRT flavor have in common."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from trtpipe.backends.base import Backend, Refusal
from trtpipe.backends.gpu import Gpu, cannot_run, gpus, has_driver
from trtpipe.backends.target_support import refuse_target
from trtpipe.backends.trt.flavor import TITLES, Flavor, load
from trtpipe.backends.trt.options import refuse_options
from trtpipe.config.toolchain import version
from trtpipe.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trtpipe.backends.base import OpenRunner
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target


class FlavorBackend(Backend):
    """A back-end whose engines are those of a TensorRT flavor."""

    @property
    @abstractmethod
    def flavor(self) -> Flavor:
        """The TensorRT flavor whose engines it builds."""

    @cached_property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs of this machine."""
        return gpus()

    def gpu_for(self, target: Target) -> Gpu | None:
        """A GPU of the target in this machine."""
        return next((gpu for gpu in self.gpus if gpu.capability == target.capability), None)

    def lacks(self, profile: DeploymentProfile, target: Target) -> Refusal | None:
        """A target, or an option for it, that the installed version does not know."""
        here = version(self.flavor) or ""
        return refuse_target(self.flavor, here, target) or refuse_options(
            profile.build, self.flavor, here, target, driver=has_driver()
        )

    def runs(self, target: Target) -> Refusal | None:
        return cannot_run(target)

    @contextmanager
    def open(self, model: Path, settings: Settings) -> Iterator[OpenRunner]:
        """Open a plan on this machine's GPU.

        Raises:
            HostError: there is no driver, or the plan was not built for this GPU and TensorRT.
        """
        from trtpipe.backends.trt.runner import open_engine

        if not has_driver():  # seen before anything heavy is imported
            raise HostError(
                f"opening a {TITLES[self.flavor]} engine needs an NVIDIA GPU, and this machine has no CUDA driver",
                "run this step on a machine with the target's GPU; building and accuracy on the CPU need none",
            )
        with open_engine(load(self.flavor), model, self.flavor) as runner:
            yield runner
