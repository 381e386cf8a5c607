"""Whether a version of a TensorRT flavor builds for a target at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.backends.base import Refusal
from trtpipe.config.target import TARGETS, Support, Target

if TYPE_CHECKING:
    from collections.abc import Iterable


def refuse_target(flavor: str, support: Support | None, version: str, target: Target) -> Refusal | None:
    """Why ``flavor`` in ``version`` builds no engines for ``target``, by the table of targets.

    Args:
        support: the versions that do; ``None``: none does, and the flavor is TensorRT-RTX.
    """
    if support is None:
        known = _names(other for other in TARGETS if other.rtx is not None)
        return Refusal(
            f"{flavor} builds no engines for {target} ({target.family})",
            f"use --backend tensorrt on a machine with that GPU, or a target it knows: {known}",
        )
    if not support.includes(version):
        return Refusal(
            f"{flavor} {version} builds no engines for {target} ({target.family}): {support} do",
            f"install {flavor} {support}",
        )
    return None


def _names(targets: Iterable[Target]) -> str:
    return ", ".join(target.name for target in targets)
