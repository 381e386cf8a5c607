"""Tasks that run the user's PyTorch code: in children of a server that has imported torch, in the user's environment.

Importing torch and its exporter takes longer than exporting a small network does, and a build runs PyTorch twice: once
to export, once for outputs to compare with. The server runs none of the user's code, and ends soon after its last task.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.isolation.exit_status import DISCONNECTED_STATUS
from trtpipe.isolation.fork_client import Child, user_server
from trtpipe.isolation.handles import Disconnected, Handle
from trtpipe.isolation.linux import run_with_stack
from trtpipe.isolation.messages import ForkRequest
from trtpipe.isolation.remote_runner import reply_of, starting
from trtpipe.isolation.surroundings import Surroundings
from trtpipe.isolation.worker import scratch_in
from trtpipe.isolation.worker_main import Reporter, outcome_of, use_scratch

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.artifact import R
    from trtpipe.isolation.messages import MessageStream
    from trtpipe.isolation.shared_arrays import SharedMemory
    from trtpipe.isolation.worker import Limits
    from trtpipe.progress import Progress


class UserTask(Record):
    """The first message to the child.

    Attributes:
        task: ``package.module:function``, as for ``worker.call``.
        request: its record, as JSON.
        scratch: the folder for temporary files.
    """

    task: str
    request: str
    scratch: str
    surroundings: Surroundings


def call_user(
    task: str,
    request: Record,
    reply: type[R],
    *,
    limits: Limits,
    progress: Progress,
    what: str,
    workdir: Path,
    function: str,
) -> R:
    """Run a task that runs ``function`` of the user, as ``worker.call`` does, in a child that need not import torch.

    The task's module is what the server imports beforehand. Variables that torch reads when it is imported are those of
    this process: a factory's file sets them too late.

    Raises:
        TrtpipeError, UserCodeError, HostError, InternalError, KeyboardInterrupt: as ``worker.call``.
    """
    with ExitStack() as stack:
        with starting(what):
            scratch = stack.enter_context(scratch_in(workdir))
            fork = ForkRequest(session="trtpipe.isolation.user_task:serve", preload=(task.partition(":")[0],))
            child = stack.enter_context(Child(fork, limits, progress, function, user_server()))
        first = UserTask(task=task, request=request.to_line(), scratch=scratch, surroundings=Surroundings.here())
        child.send(first.to_line().encode(), what)
        while (message := child.receive(what)).startswith(b"["):
            child.watch.report(message)
        return reply.model_validate(reply_of(message, what))


def serve(messages: MessageStream, memory: SharedMemory) -> None:
    """Run the task and send its outcome (in the child process)."""
    first = UserTask.model_validate_json(messages.receive())
    first.surroundings.take_over()
    use_scratch(first.scratch)
    process, stream, status = os.getpid(), Handle(messages.fileno()), [1]

    def send(message: bytes) -> None:
        if os.getpid() == process:  # else a fork that the user's code made, and that came back here
            stream.number()
            messages.send(message)

    def run() -> None:
        try:
            send(outcome_of(first.task, first.request, first.scratch, Reporter(send)).model_dump_json().encode())
            status.append(0)
        except Disconnected:
            status.append(DISCONNECTED_STATUS)

    with suppress(BrokenPipeError, ConnectionResetError):
        run_with_stack(run)
    os._exit(status[-1])
