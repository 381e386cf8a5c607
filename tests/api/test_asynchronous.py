"""Runs in an asyncio program, and how they are ended."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import trtpipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from trtpipe.progress import StoppableProgress


def test_a_run_gives_its_result_while_the_loop_goes_on(tmp_path: Path, conv_net: Path) -> None:
    def work(progress: StoppableProgress) -> trtpipe.BuildResult:
        settings = trtpipe.Settings(cache_dir=tmp_path / "cache")
        return trtpipe.simplify(conv_net, tmp_path / "s.onnx", settings=settings, progress=progress)

    async def main() -> tuple[trtpipe.BuildResult, int]:
        running = asyncio.create_task(trtpipe.run_async(work))
        ticks = 0
        while not running.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return await running, ticks

    result, ticks = asyncio.run(main())
    assert result.out == tmp_path / "s.onnx"
    assert ticks > 3


def test_an_error_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(trtpipe.InputError):
        asyncio.run(
            trtpipe.run_async(
                lambda progress: trtpipe.simplify(tmp_path / "none.onnx", tmp_path / "s.onnx", progress=progress)
            )
        )


def cancelled_once(ready: Callable[[], bool], work: Callable[[StoppableProgress], object]) -> float:
    """Start, cancel as soon as it is ``ready``, and return how many seconds it took to end after that."""

    async def main() -> float:
        running = asyncio.create_task(trtpipe.run_async(work))
        while not (ready() or running.done()):
            await asyncio.sleep(0.01)
        assert not running.done(), running.exception()
        begin = time.monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return time.monotonic() - begin

    return asyncio.run(main())


def test_cancelling_ends_the_work_and_leaves_no_output(tmp_path: Path, conv_net: Path) -> None:
    read = []

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        for index in range(2000):
            read.append(index)
            time.sleep(0.01)
            yield {"x": np.zeros((1, 3, 16, 16), np.float32)}

    def work(progress: StoppableProgress) -> trtpipe.BuildResult:
        settings = trtpipe.Settings(cache_dir=tmp_path / "cache")
        return trtpipe.calibrate(conv_net, tmp_path / "out", calib_data=feeds(), settings=settings, progress=progress)

    assert cancelled_once(lambda: len(read) > 5, work) < 5
    assert len(read) < 2000
    assert not (tmp_path / "out").exists()


def test_cancelling_ends_a_child_process_that_says_nothing(tmp_path: Path, conv_net: Path) -> None:
    started = tmp_path / "started"
    code = f"import pathlib, time\n\n\ndef data():\n    pathlib.Path({str(started)!r}).touch()\n    time.sleep(60)\n"
    (tmp_path / "slow.py").write_text(code)

    def work(progress: StoppableProgress) -> trtpipe.BuildResult:
        settings = trtpipe.Settings(cache_dir=tmp_path / "cache")
        data = f"{tmp_path / 'slow.py'}:data"
        return trtpipe.calibrate(conv_net, tmp_path / "out", calib_data=data, settings=settings, progress=progress)

    assert cancelled_once(started.exists, work) < 5
    assert not (tmp_path / "out").exists()
