"""Runs in an asyncio program: in a thread of their own, and ended when the task that awaits them is cancelled."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from trtpipe.errors import TrtpipeError
from trtpipe.progress import StoppableProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.progress import Progress

T = TypeVar("T")


async def run_async(work: Callable[[StoppableProgress], T], *, progress: Progress | None = None) -> T:
    """Run ``work`` in a thread, so that the event loop goes on meanwhile.

    When the task is cancelled, child processes are ended and the run stops at its next report of progress; only then
    does the cancellation go on, so nothing is left running. What was there before is whole, as after Ctrl-C.

    Args:
        work: called with a listener that it has to hand to the function of trtpipe that it calls.
        progress: listens too; called in that thread.

    Raises:
        asyncio.CancelledError: the task was cancelled.
        TrtpipeError: what ``work`` raises.

    Example:
        >>> import asyncio
        >>> async def main():
        ...     build = lambda progress: trtpipe.build(
        ...         "model.onnx", "out", precision="fp16", targets=["sm89"], progress=progress
        ...     )
        ...     return await asyncio.wait_for(trtpipe.run_async(build), timeout=600)
        >>> asyncio.run(main()).out.name
        'out'
    """
    stoppable = StoppableProgress(progress)
    running = asyncio.get_running_loop().run_in_executor(None, work, stoppable)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stoppable.stop()
        with suppress(TrtpipeError):
            await running
        raise
