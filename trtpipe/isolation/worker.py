"""Run a task in a child process, so that a crash, a hang or a memory leak in a native library ends as a typed error.

TensorRT, onnxsim and onnx's shape inference can all crash or block the process they run in. ``call`` starts a new
interpreter for one task, confines it to its inputs and its work folder where the kernel supports that, watches its time
and memory, and turns every way it can end into a reply or an error.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pydantic import TypeAdapter, ValidationError

from trtpipe.artifact import R, Record
from trtpipe.config.settings import child_environment, confined_environment
from trtpipe.config.toolchain import cores
from trtpipe.errors import HostError
from trtpipe.isolation.exit_status import Ending, Outcome, Stop, error_of, raise_from, user_error_of
from trtpipe.isolation.linux import POLL_SECONDS, MemoryWatch, free_memory, machine_memory
from trtpipe.progress import Stoppable

if TYPE_CHECKING:
    from trtpipe.config.settings import Settings
    from trtpipe.isolation.interpreter import Interpreter
    from trtpipe.progress import Progress

#: How a task reports progress: phase, units done, total units (``None`` if unknown).
Report: TypeAlias = Callable[[str, int, int | None], None]

#: Sets the parent's import path before anything is imported, so that the working folder cannot shadow a module.
_BOOT = "import sys; sys.path[:] = sys.argv.pop(1).split({separator!r}); from {module} import main; main(sys.argv[1:])"
_SHARE_OF_MEMORY = 0.9
#: Memory of a build: measured with TensorRT-RTX at 0.13 GB and 2.5 to 3.2 bytes for each byte of the model.
_BUILD_MEMORY, _BUILD_MEMORY_A_BYTE = 512 << 20, 4
TAIL_BYTES = 64 * 1024
_READ_BYTES = 1 << 20
_PROGRESS = TypeAdapter(tuple[str, int, int | None])


@dataclass(frozen=True)
class Limits:
    """Limits of one child process.

    Attributes:
        seconds: wall time; of user code, the time without progress.
        memory: resident bytes of the process and all it started.
        confined: whether it is confined to its files.
    """

    seconds: float
    memory: int
    confined: bool = True


@dataclass(frozen=True)
class Allowance:
    """Default time limit of a kind of work: seconds for any model, for each MB and for each node of this one."""

    seconds: float
    a_megabyte: float
    a_node: float = 0.0


#: Reading, checking and rewriting a model, which usually takes seconds.
LIGHT = Allowance(50.0, 2.0, 0.01)
#: Building an engine: TensorRT may time kernels for half an hour.
HEAVY = Allowance(3600.0, 10.0)
#: Seconds that the user's code may take without progress.
_USER_SECONDS = 1800.0
#: Default memory limit: bytes for any model, and for each byte of this one.
_MEMORY, _MEMORY_A_BYTE = 16 << 30, 16


def limits_for(
    settings: Settings,
    seconds: float | None = None,
    memory: int | None = None,
    *,
    work: Allowance = HEAVY,
    size: int = 0,
    nodes: int = 0,
) -> Limits:
    """The limits that apply: the caller's, else those of the settings, else defaults from the model's size.

    Args:
        size: bytes of the model, its external data included.
        nodes: of its graph, where the work goes through them many times.
    """
    usual = min(int(_SHARE_OF_MEMORY * machine_memory()), _MEMORY + _MEMORY_A_BYTE * size)
    usually = work.seconds + work.a_megabyte * size / 1e6 + work.a_node * nodes
    return Limits(
        seconds=seconds or settings.worker_seconds or usually,
        memory=memory or settings.worker_memory or usual,
        confined=settings.sandbox,
    )


def user_limits(settings: Settings) -> Limits:
    """The limits of a child that runs the user's code: by default half an hour without progress, 90 % of the memory."""
    memory = settings.worker_memory or int(_SHARE_OF_MEMORY * machine_memory())
    return Limits(seconds=settings.worker_seconds or _USER_SECONDS, memory=memory, confined=False)


def boot(module: str, python: Interpreter | None = None) -> list[str]:
    """The command of a process that calls ``main(arguments)`` of ``module``; append the arguments.

    Args:
        python: the environment it runs in; this process's own where none is given.
    """
    executable, path = (sys.executable, sys.path) if python is None else (str(python.executable), python.path)
    return [executable, "-c", _BOOT.format(separator=os.pathsep, module=module), os.pathsep.join(path)]


def affordable(count: int, size: int, wanted: int | None) -> int:
    """How many of ``count`` builds may run at once: at most one per core, and as many as fit into free memory.

    Args:
        size: bytes of the model.
        wanted: the number that the user asks for, which is used as it is.
    """
    need = _BUILD_MEMORY + _BUILD_MEMORY_A_BYTE * size
    return max(1, min(count, wanted or min(cores(), free_memory() // need)))


def call(
    task: str,
    request: Record,
    reply: type[R],
    *,
    limits: Limits,
    progress: Progress,
    what: str,
    workdir: Path | None = None,
    reads: Sequence[Path] | None = None,
    function: str = "",
    python: Interpreter | None = None,
) -> R:
    """Run ``task`` in a child process and wait for its reply.

    Args:
        task: ``package.module:function``, a function ``(request: SomeRecord, report: Report) -> SomeRecord`` whose
            annotations can be evaluated at run time; both records are passed as JSON.
        what: the work, as it reads after "while": ``building sm89 from lowered.onnx``.
        workdir: where the child's private scratch folder is created (default: the system's temporary folder). It
            is removed before this returns.
        reads: files and folders the child may read, besides ``workdir``, which it may write too, and the system's
            own; ``None`` if it runs the user's code, which may do whatever the user may.
        function: the user's function that the task runs, if it does: to blame for how the child ends. The time limit
            starts anew with every progress report then.
        python: the environment that the child runs in; this process's own where none is given.

    Raises:
        TrtpipeError: the very error that the task raised.
        UserCodeError: ``function`` ended the child, ran out of time or memory, or cut its connection.
        WorkerError: the child crashed, ran out of time or memory, or ended without a reply.
        HostError: no space is left on a device that the child wrote to.
        InternalError: the task raised anything else; the message holds the child's traceback.
        KeyboardInterrupt: after the child was killed.
    """
    with ExitStack() as stack:
        try:
            where = None if workdir is None else workdir.absolute()
            folder = stack.enter_context(scratch_in(where))
            Path(folder, "request.json").write_text(request.to_line(), encoding="utf-8")
            writes: list[Path | str] = [folder] if where is None else [where, folder]
            confinement = "" if reads is None else confinement_of(reads, writes, limits)
            child = stack.enter_context(
                closing(_Child(task, folder, confinement, limits, progress, python, patient=bool(function)))
            )
        except OSError as error:
            place = error.filename or workdir or tempfile.gettempdir()
            raise HostError(
                f"cannot start a worker process for {what}: {error.strerror}: {place}",
                "free disk space or memory, then run again",
            ) from error
        ending = child.watch()
        outcome = _outcome(Path(folder, "reply.json")) if ending.clean else None
    if outcome is None:
        raise user_error_of(ending, what, function) if function else error_of(ending, what)
    if outcome.kind != "done":
        raise_from(outcome, what)
    return reply.model_validate(outcome.reply)


def scratch_in(folder: Path | None) -> tempfile.TemporaryDirectory[str]:
    """A private folder in ``folder``, or where the system has temporary files."""
    where = None if folder is None else folder.absolute()
    return tempfile.TemporaryDirectory(prefix="trtpipe-", dir=where, ignore_cleanup_errors=True)


def confinement_of(reads: Sequence[Path], writes: Sequence[Path | str], limits: Limits) -> str:
    """What a child may read and write, as JSON; empty for everything."""
    if not limits.confined:
        return ""
    places = {"reads": reads, "writes": writes}
    return json.dumps({name: [str(Path(path).absolute()) for path in paths] for name, paths in places.items()})


def _outcome(path: Path) -> Outcome | None:
    try:
        return Outcome.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


class ChildWatch:
    """The limits of one child process, and what it has reported and printed.

    Attributes:
        phase: the last phase that its task reported.
    """

    def __init__(self, group: int, limits: Limits, progress: Progress) -> None:
        self.phase = ""
        self._limits = limits
        self._progress = progress
        self._memory = MemoryWatch(group, limits.memory)
        self._tail = bytearray()

    def report(self, line: bytes) -> None:
        """Pass a line of ``worker_main.Reporter`` on.

        Raises:
            ValidationError: it is something else.
        """
        self.phase, done, total = _PROGRESS.validate_json(line)
        self._progress.advance(self.phase, done, total)

    def add_output(self, data: bytes) -> None:
        """Keep the end of what the child prints."""
        self._tail += data
        del self._tail[:-TAIL_BYTES]

    def exceeded(self, deadline: float) -> Stop:
        """Why the child must be stopped now; empty if it may go on."""
        if isinstance(self._progress, Stoppable) and self._progress.stopped:
            return "cancelled"
        if time.monotonic() > deadline:
            return "time"
        return "memory" if self._memory.exceeded() else ""

    def ending(self, status: int, stopped: Stop) -> Ending:
        """How the child ended."""
        limit = self._limits.memory if stopped == "memory" else self._limits.seconds
        output = bytes(self._tail).decode("utf-8", errors="replace")
        return Ending(status=status, stopped=stopped, limit=limit, phase=self.phase, output=output)


class _Child:
    """One running child. Its standard output carries progress, its standard error what libraries print."""

    def __init__(
        self,
        task: str,
        folder: str,
        confinement: str,
        limits: Limits,
        progress: Progress,
        python: Interpreter | None,
        *,
        patient: bool,
    ) -> None:
        self._seconds, self._patient = limits.seconds, patient
        self._deadline = time.monotonic() + limits.seconds
        self._line = b""
        self._process = subprocess.Popen(
            [*boot("trtpipe.isolation.worker_main", python), task, folder, str(os.getpid()), confinement],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env=confined_environment() if confinement else child_environment(),
        )
        self._watch = ChildWatch(self._process.pid, limits, progress)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ, self._take_progress)  # type: ignore[arg-type]
        self._selector.register(self._process.stderr, selectors.EVENT_READ, self._watch.add_output)  # type: ignore[arg-type]

    def close(self) -> None:
        self._kill()
        self._selector.close()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def watch(self) -> Ending:
        """Wait until the child has ended, or end it when a limit is exceeded."""
        stopped: Stop = ""
        while not stopped and self._process.poll() is None:
            self._read(POLL_SECONDS)
            stopped = self._watch.exceeded(self._deadline)
        self._kill()
        self._read(0)  # what it wrote last
        return self._watch.ending(self._process.returncode, stopped)

    def _read(self, seconds: float) -> None:
        if not self._selector.get_map():  # both pipes are closed, so it is about to end
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        for key, _ in self._selector.select(seconds) if self._selector.get_map() else ():
            data = os.read(key.fd, _READ_BYTES)
            if data:
                key.data(data)
            else:
                self._selector.unregister(key.fileobj)

    def _take_progress(self, data: bytes) -> None:
        *lines, rest = (self._line + data).split(b"\n")
        self._line = rest[-TAIL_BYTES:]
        for line in lines:
            with suppress(ValidationError):  # the interpreter's start-up may print to standard output
                self._watch.report(line)
                if self._patient:
                    self._deadline = time.monotonic() + self._seconds

    def _kill(self) -> None:
        """Kill the whole process group, if it still exists."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
