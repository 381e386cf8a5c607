"""The default back-end and the default targets on this machine."""

from __future__ import annotations

from trtpipe.backends.base import missing
from trtpipe.backends.gpu import gpus
from trtpipe.backends.torch_tensorrt import TorchTensorRT
from trtpipe.config.requirements import install
from trtpipe.config.target import Target, find_target
from trtpipe.errors import HostError, InputError


def choose_backend(wanted: str) -> tuple[str, str]:
    """The back-end to use, and why.

    Args:
        wanted: a name, or ``auto``.

    Raises:
        HostError: it is not installed; for ``auto``: none that can build here is.
    """
    if wanted != "auto":
        if refusal := missing(wanted):
            raise HostError(refusal.reason, refusal.remedy)
        return wanted, "asked for"
    if missing("tensorrt") is None and gpus():
        return "tensorrt", "tensorrt is installed and this machine has a GPU"
    if missing("tensorrt-rtx") is None:
        why = "it builds without a GPU" if not gpus() else "tensorrt is not installed"
        return "tensorrt-rtx", why
    raise HostError(
        "no TensorRT is installed that can build here",
        f"{install('rtx')} (no GPU needed), or {install('tensorrt')} on a machine with a GPU",
    )


def default_targets(backend: str) -> tuple[tuple[Target, ...], str]:
    """The targets to build for when none is named, and why."""
    if backend == "torch-tensorrt":
        backend = TorchTensorRT().flavor
    if backend == "tensorrt":
        here = {gpu.capability for gpu in gpus()}
        names = tuple(f"sm{major}{minor}" for major, minor in sorted(here))
        if not names:
            raise HostError("tensorrt builds for the GPU it runs on, and there is none", "use --backend tensorrt-rtx")
        try:
            return tuple(find_target(name) for name in names), "the GPUs of this machine"
        except InputError as error:
            raise HostError(f"this machine's GPU is not supported: {error.message}", error.remedy) from error
    return tuple(find_target(name) for name in ("sm86", "sm89", "sm120")), "GeForce RTX 30, 40 and 50"
