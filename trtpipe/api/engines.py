"""Plan files as arguments: whether they are whole, what they are for, and whether they can run here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.backends.base import load_backend
from trtpipe.backends.compatibility import obstacles
from trtpipe.config.target import find_target
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import HostError, InputError

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.api.inspection import Inspection
    from trtpipe.config.job import Job


def runnable_engine(job: Job, plan_file: Path) -> str:
    """The label of a plan that can run here, as far as is known without loading it.

    Raises:
        HostError: it cannot.
        InputError: it is damaged, or nothing says what it is for.
    """
    target = _target_of(job, plan_file)
    found = undamaged(plan_file)
    refusals = obstacles(found.plan, found.engine) if found.plan is not None else ()
    if not refusals and (refusal := load_backend(job.backend).runs(find_target(target))):
        refusals = (refusal,)
    if refusals:
        raise HostError(f"{plan_file} cannot run here: {refusals[0].reason}", refusals[0].remedy)
    return f"engine:{target}"


def undamaged(plan_file: Path) -> Inspection:
    """What is known of a plan.

    Raises:
        InputError: it is cut short, or the file beside it is of another one.
    """
    from trtpipe.api.inspection import inspect  # every record there is, of which a build needs a few

    found = inspect(plan_file)
    if found.notes:
        raise InputError(f"{plan_file}: {found.notes[0]}", "build it again, or copy both files of it")
    return found


def _target_of(job: Job, plan_file: Path) -> str:
    """The target a plan was built for: by its sidecar, else the job's only target."""
    sidecar = plan_file.with_name(f"{plan_file.name}.json")
    if sidecar.is_file():
        return EngineRecord.read(sidecar).target
    if len(job.targets) == 1:
        return job.targets[0].name
    raise InputError(f"{plan_file}: which target is it for?", "add --target, for example --target sm89")
