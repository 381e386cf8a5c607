"""The child process in which a PyTorch source runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.config.source import Pt2Source
from trtpipe.exporter.request import ExportReply
from trtpipe.isolation.user_task import call_user
from trtpipe.isolation.worker import call, limits_for, user_limits

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.artifact import Record
    from trtpipe.config.settings import Settings
    from trtpipe.config.source import FactorySource
    from trtpipe.progress import Progress


def call_on(
    source: FactorySource | Pt2Source,
    task: str,
    request: Record,
    runtime: Settings,
    progress: Progress,
    doing: str,
    workdir: Path,
) -> ExportReply:
    """Run a task on a source: a file in a confined child, a factory in one that may do what the user may.

    Args:
        doing: what the task does with the source: ``exporting``.

    Raises:
        TrtpipeError: as ``worker.call``, and as ``user_task.call_user`` for a factory.
    """
    what = f"{doing} {source.label}"
    if isinstance(source, Pt2Source):
        limits, reads = limits_for(runtime), (source.path,)
        return call(task, request, ExportReply, limits=limits, progress=progress, what=what, workdir=workdir,
                    reads=reads)  # fmt: skip
    return call_user(task, request, ExportReply, limits=user_limits(runtime), progress=progress, what=what,
                     workdir=workdir, function=source.label)  # fmt: skip
