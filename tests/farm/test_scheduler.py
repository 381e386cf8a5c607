"""The order of tasks, and what becomes of those whose workers die."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.farm.scheduler import ATTEMPTS, Schedule
from trtpipe.farm.tasks import Needs, Offer, StageDone, Task, TaskError, TaskReply, TaskRequest
from trtpipe.farm.workers import Ended, Workers
from trtpipe.progress import NullProgress

REQUEST = TaskRequest(
    trtpipe="1", seal="", source="a.onnx", profile=DeploymentProfile(), recipe=CalibrationRecipe(), backend="null",
    target="sm89", stages=("export",), last=False,
)  # fmt: skip
DONE = TaskReply(worker="w", seconds=0.0, steps=(StageDone(label="export", state="built", seconds=0.0),)).to_line()
ERROR = TaskError(kind="BuildError", message="no", remedy="none", exit_code=5)
FAILED = TaskReply(worker="w", seconds=0.0, error=ERROR).to_line()


class Listener(NullProgress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def end(self, step: str, outcome: str) -> None:
        self.steps.append(step)


@pytest.fixture
def listener() -> Listener:
    return Listener()


def tasks(*after: tuple[int, ...]) -> list[Task]:
    return [Task(number, f"t{number}", Needs(), REQUEST, before, ("export",)) for number, before in enumerate(after)]


class Fake(Workers):
    """Does tasks in a random order; ``dies`` says with which of them a worker dies, and how often."""

    def __init__(self, slots: int = 3, dies: dict[int, int] | None = None, fails: Sequence[int] = ()) -> None:
        self.slots, self.dies, self.fails = slots, dict(dies or {}), fails
        self.running: list[int] = []
        self.done: list[int] = []
        self.random = random.Random(1)

    def offers(self) -> tuple[Offer, ...]:
        return ()

    def room(self) -> int:
        return self.slots - len(self.running)

    def submit(self, task: Task) -> None:
        assert set(task.after) <= set(self.done), "a task began before one that it waits for"
        assert len(self.running) < self.slots
        self.running.append(task.number)

    def wait(self) -> Sequence[Ended]:
        number = self.running.pop(self.random.randrange(len(self.running)))
        if self.dies.get(number, 0):
            self.dies[number] -= 1
            return [Ended(number, None, "its worker died")]
        self.done.append(number)
        return [Ended(number, FAILED if number in self.fails else DONE)]

    def close(self) -> None:
        self.running.clear()


def test_each_is_done_once_after_what_it_waits_for(listener: Listener) -> None:
    rng = random.Random(0)
    graph = tasks(*(tuple(rng.sample(range(n), min(n, rng.randrange(3)))) for n in range(200)))
    workers = Fake()
    replies = Schedule(graph, workers, listener).run()
    assert sorted(workers.done) == list(range(200))
    assert all(reply.error is None for reply in replies.values())
    assert len(listener.steps) == 200


def test_a_failure_ends_those_who_need_it_and_no_others(listener: Listener) -> None:
    graph = tasks((), (0,), (1,), (2, 4), (), (4,))
    replies = Schedule(graph, Fake(fails=(1,)), listener).run()
    assert {number for number, reply in replies.items() if reply.error is not None} == {1, 2, 3}
    assert replies[3].error == ERROR
    assert sorted(listener.steps) == ["t0", "t1", "t4", "t5"]  # the others never began, so they do not end


def test_a_store_that_is_gone_ends_all_that_has_not_begun(listener: Listener) -> None:
    class Gone(Fake):
        def wait(self) -> Sequence[Ended]:
            [ended] = super().wait()
            return [Ended(ended.number, lost) if ended.number == 3 else ended]

    gone = TaskError(kind="Unreachable", message="no answer", remedy="none", exit_code=6)
    lost = TaskReply(worker="w", seconds=60.0, error=gone).to_line()
    workers = Gone(slots=1)
    replies = Schedule(tasks(*[()] * 50), workers, listener).run()
    assert len(workers.done) == 4
    assert [reply.error for reply in replies.values()].count(gone) == 47


def test_what_workers_warn_of_is_said_once(listener: Listener) -> None:
    said = TaskReply(worker="w", seconds=0.0, warnings=("the disk is slow",)).to_line()

    class Warns(Fake):
        def wait(self) -> Sequence[Ended]:
            return [Ended(each.number, said) for each in super().wait()]

    Schedule(tasks((), (0,), ()), Warns(), listener).run()
    (line,) = listener.warnings
    assert line.endswith(": the disk is slow")


def test_a_task_begins_again_where_its_worker_died(listener: Listener) -> None:
    schedule = Schedule(tasks((), (0,)), Fake(dies={0: 2, 1: 1}), listener)
    assert all(reply.error is None for reply in schedule.run().values())
    assert schedule.repeated == len(listener.warnings) == 3


def test_what_is_there_needs_no_worker(listener: Listener) -> None:
    """And what waits for a task that does is not asked for: it cannot be there."""
    graph, workers, asked = tasks((), (0,), (), (2,), (0, 2)), Fake(), []

    def known(task: Task) -> TaskReply | None:
        asked.append(task.number)
        if task.number not in (0, 1):
            return None
        workers.done.append(task.number)
        return TaskReply(worker="here", seconds=0.0)

    replies = Schedule(graph, workers, listener, known).run()
    assert [replies[number].worker for number in range(5)] == ["here", "here", "w", "w", "w"]
    assert sorted(asked) == [0, 1, 2]
    assert len(listener.steps) == 5


def test_one_that_kills_its_workers_is_given_up(listener: Listener) -> None:
    replies = Schedule(tasks((), (0,), ()), Fake(dies={0: ATTEMPTS}), listener).run()
    assert [replies[number].error is None for number in range(3)] == [False, False, True]
    error = replies[0].error
    assert error is not None
    assert error.exit_code == 6


@pytest.mark.parametrize("text", ["", "{}", '{"worker": 1}', "\x00"])
def test_what_is_no_reply_is_an_error_of_that_task(listener: Listener, text: str) -> None:
    class Odd(Fake):
        def wait(self) -> Sequence[Ended]:
            return [Ended(self.running.pop(), text)]

    (reply,) = Schedule(tasks(()), Odd(), listener).run().values()
    assert reply.error is not None
