"""Every target, and which flavors of TensorRT build for it on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.backends.base import load_backend, missing
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.target import TARGETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.config.target import Target


class TargetState(Record):
    """One target: what it is, and which flavors build for it on this machine.

    Attributes:
        names: products, as the command line takes them.
        dtypes: element types it computes in besides float32.
        backends: flavors that are installed here and can build for it.
        problem: why none can; empty where one does.
    """

    name: str
    family: str
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    dla: bool
    backends: tuple[str, ...]
    problem: str


def target_states(flavors: Sequence[str]) -> tuple[TargetState, ...]:
    """What each target is, and which of ``flavors`` are installed and build for it."""
    return tuple(_state(target, flavors) for target in TARGETS)


def _state(target: Target, flavors: Sequence[str]) -> TargetState:
    installed = [name for name in flavors if missing(name) is None]
    refusals = {name: load_backend(name).refuses(None, DeploymentProfile(), target) for name in installed}
    able = tuple(name for name, refusal in refusals.items() if refusal is None)
    reasons = [refusal.reason for refusal in refusals.values() if refusal is not None]
    return TargetState(
        name=target.name,
        family=target.family,
        names=target.aliases,
        dtypes=tuple(sorted(form.storage for form in target.formats)),
        dla=target.dla,
        backends=able,
        problem="" if able else "; ".join(reasons) or "no TensorRT is installed",
    )
