"""Calibration data in parts: the same statistics as in one pass, byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from world import World

from trtpipe.pipeline.pipeline import Pipeline, opened_store, stages_named
from trtpipe.progress import NullProgress
from trtpipe.stages.observe_shards import ObserveFromShards, ObserveShard


def statistics(pipeline: Pipeline, count: int) -> bytes:
    """What shards find together; 0: one pass."""
    before = stages_named("export", "simplify")
    if not count:
        return pipeline.run(stages_named("export", "simplify", "observe"), {})[-1].artifact.path.read_bytes()
    found = pipeline.run((*before, *(ObserveShard(index, count) for index in range(count))), {})
    merged = ObserveFromShards([step.artifact for step in found[2:]])
    return pipeline.run((*before, merged), {})[-1].artifact.path.read_bytes()


@pytest.mark.parametrize(("size", "batch"), [(7, 3), (50, 3), (64, 1)])
def test_any_number_of_shards_gives_the_bytes_of_one_pass(world: World, tmp_path: Path, size: int, batch: int) -> None:
    rng = np.random.default_rng(size)
    np.savez(tmp_path / "calib.npz", x=rng.normal(size=(size, 3, 8, 8)).astype(np.float32))
    recipe = {"data": {"source": str(tmp_path / "calib.npz"), "batch": batch}}
    found = []
    for count in (0, 1, 3, 16):
        job = world.job(recipe=recipe)
        settings = job.settings.__class__(cache_dir=tmp_path / f"cache-{count}")
        with opened_store(settings, "", NullProgress()) as store:
            found.append(statistics(Pipeline(job, store, NullProgress()), count))
    assert len(set(found)) == 1
