"""How good are ranges? The graph with all in 8 bits, its scales fed, against the float32 graph on some samples."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.errors import InputError
from trtpipe.quantization.output_noise import OutputNoise
from trtpipe.quantization.simulator import switchboard
from trtpipe.reference.reference_outputs import exact_outputs, run_every

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from trtpipe.calibration.statistics import Statistics
    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import QuantizationSettings
    from trtpipe.data.sample import Dataset
    from trtpipe.quantization.range_search import Judge

#: Feeds to judge by, and bytes they may take.
FEEDS, FEED_BYTES = 32, 64 << 20


@contextmanager
def judging(
    settings: QuantizationSettings,
    simplified: Path,
    statistics: Statistics,
    dataset: Dataset,
    workdir: Path,
    runtime: Settings,
    *,
    tolerant: bool,
) -> Iterator[Judge]:
    """A judge for the placement, precision and weights of ``settings``; its graph is in ``workdir`` meanwhile.

    Args:
        tolerant: leave out samples on which the float32 graph fails or is not finite.

    Raises:
        InputError: the outputs say nothing, because they are all 0 or hold no floats.
    """
    from trtpipe.calibration.ranges import derive_ranges

    feeds, expected = exact_outputs(simplified, dataset, FEEDS, FEED_BYTES, workdir, runtime, tolerant=tolerant)
    noise = OutputNoise(expected)
    if not noise.telling:
        raise InputError(
            "method auto judges by the model's float outputs, and it has none that differ from 0",
            "choose another method, for example --method mse",
        )
    ranges = derive_ranges(statistics, "max", 100.0, settings.precision.quantized_format)
    board = switchboard(settings, simplified, ranges, settings.precision.quantized_format, workdir, runtime)
    try:
        with board.open() as desk:
            runner = desk.set(range(len(board.groups)))

            def judge(amax: Mapping[str, float]) -> np.ndarray:
                results = run_every(runner, feeds, board.scales(amax))
                return np.array([noise.decibels(index, found) for index, found in enumerate(results)])

            yield judge
    finally:
        board.close()
