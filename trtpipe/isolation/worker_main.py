"""The child's side of ``worker.call``: runs one task, writes its reply and exits."""

from __future__ import annotations

import json
import os
import tempfile
import time
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from trtpipe.artifact import Record
from trtpipe.errors import InternalError
from trtpipe.isolation.exit_status import DISCONNECTED_STATUS, NO_SPACE_STATUS, Outcome
from trtpipe.isolation.handles import Disconnected, Handle
from trtpipe.isolation.imports import load_name, no_telemetry
from trtpipe.isolation.linux import end_with_parent, prefer_as_oom_victim, run_with_stack
from trtpipe.isolation.sandbox import confine

_REPORT_SECONDS = 0.05


def main(arguments: Sequence[str]) -> NoReturn:
    """Run a task and exit.

    Args:
        arguments: the task's name, its scratch folder, the parent's process id, and the confinement as JSON.
    """
    task, folder, parent, confinement = arguments
    end_with_parent(int(parent))
    prefer_as_oom_victim()
    no_telemetry()
    if confinement:
        confine(**json.loads(confinement))
    stream = Handle(os.dup(1))  # for progress; what libraries print goes to standard error instead
    os.dup2(2, 1)
    report = Reporter(lambda line: os.write(stream.number(), line + b"\n"))
    use_scratch(folder)
    status = [1]
    run_with_stack(lambda: status.append(_reply(task, Path(folder), report)))
    os._exit(status[-1])  # no clean-up: native libraries crash during theirs, after the reply is written


def resolve(task: str) -> tuple[Callable[[Any, Any], Record], type[Record]]:
    """The function called ``package.module:function`` and the record it takes.

    Raises:
        InternalError: the function takes no record called ``request``, so it was not written as a task.
    """
    function = load_name(task)
    request = typing.get_type_hints(function).get("request")
    if not (isinstance(request, type) and issubclass(request, Record)):
        raise InternalError(f"task {task!r} takes no Record called 'request'")
    return function, request


def outcome_of(task: str, request: str, scratch: str, report: Callable[[str, int, int | None], None]) -> Outcome:
    """Run a task on its request in JSON: its reply, or what it raised.

    Args:
        scratch: what is full where an error of the disk names no file.

    Raises:
        Disconnected: it closed the connection to the parent.
    """
    try:
        function, record = resolve(task)
        return Outcome(kind="done", reply=function(record.model_validate_json(request), report).to_dict())
    except Disconnected:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent gets it with its traceback
        return Outcome.of_error(error, scratch)


def _reply(task: str, folder: Path, report: Reporter) -> int:
    """Run the task and write its outcome; the exit status."""
    process = os.getpid()
    try:
        outcome = outcome_of(task, (folder / "request.json").read_text(encoding="utf-8"), str(folder), report)
    except Disconnected:
        return DISCONNECTED_STATUS
    if os.getpid() != process:  # a fork that the user's code made, and that came back here
        return 0
    part = folder / "reply.part"
    try:
        part.write_text(outcome.model_dump_json(), encoding="utf-8")
        part.replace(folder / "reply.json")
    except OSError:
        return NO_SPACE_STATUS
    return 0


def use_scratch(folder: str) -> None:
    """Have libraries put temporary files into ``folder``, which the parent removes even if this process is killed."""
    tempfile.tempdir = folder
    os.putenv("TMPDIR", folder)


class Reporter:
    """Sends progress reports as JSON, at most every 50 ms except for the first and last step of a phase.

    The first one matters when a phase crashes at its beginning.
    """

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self._send = send
        self._last = 0.0
        self._phase = ""

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if phase != self._phase or done == total or now - self._last >= _REPORT_SECONDS:
            self._last, self._phase = now, phase
            with suppress(BrokenPipeError):  # the parent has closed its end
                self._send(json.dumps([phase, done, total]).encode())
