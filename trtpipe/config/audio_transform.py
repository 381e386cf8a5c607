"""How a sound becomes a tensor, as plain data: what calibration applies, a package holds, and the runtime applies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AudioTransform:
    """From a WAV file to log mel energies; the fields are those of ``trtpipe.config.recipe.AudioSettings``, which says
    what they mean.

    Raises:
        ValueError: a value that no sound can be prepared with.
    """

    sample_rate: int = 16000
    window: int = 400
    hop: int = 160
    bands: int = 80
    seconds: float | None = None
    decades: float | None = None
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if min(self.sample_rate, self.hop, self.bands) < 1 or self.window < 2:
            raise ValueError("sample_rate, hop or bands is less than 1, or window less than 2")
        if self.seconds is not None and not 0 < self.seconds <= 3600:
            raise ValueError(f"seconds is {self.seconds}, and a sound has more than 0 and up to 3600")
        if self.std <= 0 or (self.decades is not None and self.decades <= 0):
            raise ValueError("std and decades have to be greater than 0")

    @property
    def shape(self) -> tuple[int, int | None]:
        """Of the tensor, without batch axis: bands and frames; ``None`` for what depends on the sound."""
        frames = None if self.seconds is None else round(self.seconds * self.sample_rate) // self.hop
        return self.bands, frames
