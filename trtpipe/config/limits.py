"""When an output counts as equal to another, as plain data: what a package holds, and a self-test applies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class OutputLimits:
    """The fields are those of ``trtpipe.config.profile.OutputTolerance``, which says what they mean."""

    atol: float | None = None
    rtol: float | None = None
    stat: Literal["elemwise", "max", "mean", "median"] | None = None
    min_cosine: float | None = None
    min_snr_db: float | None = None
    min_agreement: float | None = None
