"""Tasks in the order of what they wait for, each once, again where a worker died; and what became of each."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import ValidationError

from trtpipe.errors import InternalError
from trtpipe.farm.tasks import TaskError, TaskReply
from trtpipe.remote.bucket import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trtpipe.farm.tasks import Task
    from trtpipe.farm.workers import Ended, Workers
    from trtpipe.progress import Progress

#: A task whose worker dies so often is at fault itself.
ATTEMPTS = 4


@dataclass
class Schedule:
    """One run over the tasks of a matrix. A failed task fails those that wait for it, and no others.

    Attributes:
        replies: number -> what became of the task; complete after ``run``.
        known: the reply to a task that needs no worker, because all that it would make is there; ``None`` otherwise.
            Those alone are asked for that wait for none but such.
        repeated: how many times a worker died with a task.
    """

    tasks: Sequence[Task]
    workers: Workers
    progress: Progress
    known: Callable[[Task], TaskReply | None] = lambda task: None
    replies: dict[int, TaskReply] = field(default_factory=dict)
    repeated: int = 0
    _said: set[str] = field(default_factory=set)
    _found: set[int] = field(default_factory=set)
    _lost: TaskError | None = None

    def run(self, finished: Callable[[Task, TaskReply], None] = lambda task, reply: None) -> dict[int, TaskReply]:
        """Do all tasks.

        Args:
            finished: is called with each that is over.

        Raises:
            HostError: no worker is left.
        """
        waits = [len(task.after) for task in self.tasks]
        followers: list[list[int]] = [[] for _ in self.tasks]
        for task in self.tasks:
            for before in task.after:
                followers[before].append(task.number)
        ready = deque(task.number for task in self.tasks if not task.after)
        attempts = [0] * len(self.tasks)
        running = 0
        while ready or running:
            for _ in range(min(self.workers.room(), len(ready))):
                task = self.tasks[ready.popleft()]
                if self._lost is not None:  # each would wait as long for the store, to end in the same way
                    lost = TaskReply(worker="", seconds=0.0, error=self._lost)
                    self.progress.begin(task.label)
                    self._close(task, lost, followers, waits, ready, finished)
                    continue
                if self._found.issuperset(task.after) and (there := self.known(task)) is not None:
                    self._found.add(task.number)
                    self.progress.begin(task.label)
                    self._close(task, there, followers, waits, ready, finished)
                    continue
                attempts[task.number] += 1
                self.progress.begin(task.label)
                self.workers.submit(task)
                running += 1
            for ended in self.workers.wait() if running else ():
                task = self.tasks[ended.number]
                running -= 1
                if ended.reply is None and attempts[task.number] < ATTEMPTS:
                    self.repeated += 1
                    self.progress.warn(f"{task.label}: {ended.why}; it begins again")
                    ready.appendleft(task.number)
                    continue
                self._close(task, _reply(task, ended), followers, waits, ready, finished)
        if len(self.replies) != len(self.tasks):
            raise InternalError("tasks wait for each other")
        return self.replies

    def _close(
        self,
        task: Task,
        reply: TaskReply,
        followers: Sequence[Sequence[int]],
        waits: list[int],
        ready: deque[int],
        finished: Callable[[Task, TaskReply], None],
    ) -> None:
        """Note what became of a task; who waited for it may begin, or fails with it."""
        over = [(task, reply)]
        while over:
            each, found = over.pop()
            if each.number in self.replies:
                continue
            self.replies[each.number] = found
            if found.error is not None and found.error.kind == Unreachable.__name__:
                self._lost = found.error
            for text in found.warnings:
                if text not in self._said:  # one of a model comes from each of its tasks
                    self._said.add(text)
                    self.progress.warn(f"{each.label}: {text}")
            if each is task:  # the others never began
                self.progress.end(each.label, _outcome(found))
            finished(each, found)
            for number in followers[each.number]:
                waits[number] -= 1
                if found.error is not None:
                    over.append((self.tasks[number], TaskReply(worker="", seconds=0.0, error=found.error)))
                elif not waits[number] and number not in self.replies:
                    ready.append(number)


def _outcome(reply: TaskReply) -> str:
    if reply.error is not None:
        return "failed"
    return "built" if any(step.state == "built" for step in reply.steps) else "hit"


def _reply(task: Task, ended: Ended) -> TaskReply:
    if ended.reply is None:
        error = TaskError(
            kind="HostError",
            message=f"{task.label}: {ended.why}, {ATTEMPTS} times",
            remedy="give the workers more memory, or look into their logs",
            exit_code=6,
        )
        return TaskReply(worker="", seconds=0.0, error=error)
    try:
        return TaskReply.model_validate_json(ended.reply)
    except ValidationError as fault:
        message = f"{task.label}: a worker's reply is none ({fault.errors()[0]['msg']})"
        error = TaskError(kind="HostError", message=message, remedy="use one trtpipe on all workers", exit_code=6)
        return TaskReply(worker="", seconds=0.0, error=error)
