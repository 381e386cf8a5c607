"""The child's side of ``worker.call``: one task, one answer, and out."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import threading
import time
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from trtpipe.artifact import Record
from trtpipe.errors import InternalError
from trtpipe.isolation.exit_status import NO_SPACE_STATUS, Outcome
from trtpipe.isolation.imports import defer_sympy, no_telemetry
from trtpipe.isolation.linux import be_the_first_to_go, die_with
from trtpipe.isolation.sandbox import confine

#: TensorRT walks graphs recursively: a chain of a few thousand layers overflows the usual 8 MiB.
STACK_BYTES = 512 << 20
_REPORT_SECONDS = 0.05
_HOME = "trtpipe."


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the task that ``arguments`` name (task, scratch folder, parent's process id, places as JSON) and exit."""
    task, folder, parent, places = arguments
    die_with(int(parent))
    be_the_first_to_go()
    no_telemetry()
    defer_sympy()
    if places:
        confine(**json.loads(places))
    report = _Reporter(_take_stdout())
    tempfile.tempdir = folder  # what libraries leave behind when killed goes with the folder
    os.putenv("TMPDIR", folder)
    status = [1]
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=lambda: status.append(_answer(task, Path(folder), report)), daemon=True)
    thread.start()
    thread.join()
    os._exit(status[-1])  # no clean-up: native libraries crash in theirs, after the answer is written


def resolve(task: str, home: str = _HOME) -> tuple[Callable[[Any, Any], Record], type[Record]]:
    """The function called ``package.module:function`` and the record it takes.

    Raises:
        InternalError: the module is not inside ``home``, or the function takes no record called ``request``.
    """
    module, _, name = task.partition(":")
    if not module.startswith(home):
        raise InternalError(f"task {task!r} is not inside {home!r}")
    function = getattr(importlib.import_module(module), name)
    request = typing.get_type_hints(function).get("request")
    if not (isinstance(request, type) and issubclass(request, Record)):
        raise InternalError(f"task {task!r} takes no Record called 'request'")
    return function, request


def _answer(task: str, folder: Path, report: _Reporter) -> int:
    """Run the task and write its outcome; the exit status."""
    try:
        outcome = _perform(task, folder, report)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent gets it with its traceback
        outcome = Outcome.of_error(error, str(folder))
    part = folder / "reply.part"
    try:
        part.write_text(outcome.model_dump_json(), encoding="utf-8")
        part.replace(folder / "reply.json")
    except OSError:
        return NO_SPACE_STATUS
    return 0


def _perform(task: str, folder: Path, report: _Reporter) -> Outcome:
    function, request = resolve(task)
    text = (folder / "request.json").read_text(encoding="utf-8")
    reply = function(request.model_validate_json(text), report)
    return Outcome(kind="done", reply=reply.to_dict())


def _take_stdout() -> int:
    """Keep the real standard output for progress, and send what anybody prints to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


class _Reporter:
    """Writes progress as one line of JSON a report, at most every 50 ms but for the first and last step of a phase.

    The first one counts where a crash is to be blamed on a phase that had only just begun.
    """

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._last = 0.0
        self._phase = ""

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if phase != self._phase or done == total or now - self._last >= _REPORT_SECONDS:
            self._last, self._phase = now, phase
            with suppress(BrokenPipeError):  # nobody listens any more
                os.write(self._stream, json.dumps([phase, done, total]).encode() + b"\n")
