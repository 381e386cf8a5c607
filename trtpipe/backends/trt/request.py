"""Builds an engine in a child process: the request, and what the parent does before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.backends.trt.flavor import Flavor
from trtpipe.backends.trt.options import ignored_options
from trtpipe.backends.trt.timing_cache import TimingStore
from trtpipe.config.plugins import plugin_digests, plugin_paths
from trtpipe.config.profile import BuildSettings, ShapeRange
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import BuildError, WorkerCrashed, WorkerError
from trtpipe.isolation.remote_runner import call_forked
from trtpipe.isolation.worker import call, limits_for
from trtpipe.preflight import folder_size

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.backends.base import EngineRequest
    from trtpipe.progress import Progress


class BuildMessage(Record):
    """One engine build.

    Attributes:
        model, plan: paths; the plan is written as it grows.
        flavor: for messages, and for the effect of options.
        targets: the capabilities the plan is for.
        shapes: optimization profiles; for an input whose values decide shapes the range is one of values.
        options: of the builder; plug-ins as absolute paths.
        timings: a timing cache of earlier builds, which the build updates; empty: none.
        device: the GPU to build on, for ``CUDA_VISIBLE_DEVICES``; empty: the builder's choice.
        opens: whether the worker can open the engine afterwards, for its inspector.
    """

    model: str
    plan: str
    flavor: Flavor
    targets: tuple[str, ...]
    shapes: tuple[dict[str, ShapeRange], ...] = ()
    options: BuildSettings = BuildSettings()
    timings: str = ""
    device: str = ""
    opens: bool = False

    @property
    def wanted(self) -> str:
        """The targets, for messages."""
        return ", ".join(self.targets)


def build_in_worker(
    request: EngineRequest,
    flavor: Flavor,
    progress: Progress,
    device: str = "",
    timings: TimingStore | None = None,
    task: str = "trtpipe.backends.trt.builder:build_task",
    *,
    opens: bool = False,
    confined: bool = True,
) -> EngineRecord:
    """Run ``task`` on a BuildMessage in a child process; the plan appears when it is complete, or not at all.

    Args:
        timings: the timing cache to use and update; ``None``: none.
        opens, confined: whether the worker can open the engine; whether it runs in the sandbox.

    Raises:
        TrtpipeError: as ``build`` and ``worker.call`` do.
    """
    model, plan, options = request.model, request.plan, request.profile.build
    part, timed = plan.with_name(f"{plan.name}.part"), plan.with_name(f"{plan.name}.timings")
    plugins = plugin_paths(options)
    asked = BuildMessage(
        model=str(model),
        plan=str(part),
        flavor=flavor,
        targets=tuple(target.name for target in request.targets),
        shapes=request.profile.shapes,
        options=options.model_copy(update={"plugins": tuple(map(str, plugins))}),
        timings="" if timings is None else str(timed),
        device=device,
        opens=opens,
    )
    what = f"building {asked.wanted} from {model.name}"
    limits = limits_for(request.settings, options.time_limit, options.memory_limit, size=folder_size(model.parent))

    def attempt(path: Path) -> EngineRecord:
        asked_here = asked.model_copy(update={"model": str(path)})
        if not confined or request.python is not None:
            return call(
                task, asked_here, EngineRecord,
                limits=limits, progress=progress, what=what, workdir=plan.parent, python=request.python,
                reads=(path.parent, *plugins) if confined else None,
            )  # fmt: skip
        return call_forked(
            task, asked_here, EngineRecord,
            limits=limits, progress=progress, what=what, workdir=plan.parent, reads=(path.parent, *plugins),
        )  # fmt: skip

    try:
        if timings is not None:
            timings.fetch(timed)
        record = attempt(model)
        if not part.is_file():
            raise WorkerError(f"no engine was written while {what}", "build again")
        if timings is not None:
            timings.keep(timed)
        part.replace(plan)
    except (BuildError, WorkerCrashed) as error:
        from trtpipe.backends.trt.bisect import with_failing_node

        if len(request.targets) > 1:  # each target is built again separately, with an error of its own
            raise
        raise with_failing_node(error, model, attempt, plan.parent, flavor) from error
    finally:
        part.unlink(missing_ok=True)
        timed.unlink(missing_ok=True)
    notes = (*record.notes, *ignored_options(options, flavor))
    return record.model_copy(update={"plugins": plugin_digests(options), "notes": notes})
