"""Graphs that run in a child: what comes back is what runs here; and whatever they do, this process goes on."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from fault_injection import fault
from fixtures_backends import Heard
from hostile.models import add, loop, plain, tensor
from models import CASES, conv_net, feed_for, model, normal, save
from onnx import TensorProto, helper

from trtpipe.artifact import Record
from trtpipe.backends.null import NullRequest
from trtpipe.backends.onnxruntime import OPENER, OnnxRuntime, opened_here
from trtpipe.config.settings import Settings
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import (
    BuildError,
    Cancelled,
    HostError,
    InputError,
    InternalError,
    OutOfMemory,
    OutOfTime,
    StageError,
    WorkerCrashed,
    WorkerError,
)
from trtpipe.isolation.fork_client import server_of
from trtpipe.isolation.remote_runner import call_forked, open_remote, open_remote_in_turn
from trtpipe.isolation.worker import Limits
from trtpipe.progress import NullProgress

if TYPE_CHECKING:
    from collections.abc import Iterator

HANDLES = Path("/proc/self/fd")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


def divided() -> onnx.ModelProto:
    """z = x / y of integers: the smallest one by -1 is more than the largest, and kills the process (SIGFPE) on x86."""
    return model("(int32[N] x, int32[N] y) => (int32[N] z) { z = Div(x, y) }")


ONES = {"x": np.ones(3, np.int32), "y": np.ones(3, np.int32)}
DEADLY = {"x": np.full(3, -(2**31), np.int32), "y": np.full(3, -1, np.int32)}
divides_deadly = pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors do not mind")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", worker_seconds=60.0)


def children_of(process: int) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == process and fields[0] != "Z":
                found.add(int(path.parent.name))
    return found


def server() -> int:
    process = server_of(os.getpid())._process
    assert process is not None
    return process.pid


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_this_process_bit_by_bit(tmp_path: Path, settings: Settings, name: str) -> None:
    path = save(CASES[name](), tmp_path / "model.onnx")
    feed = feed_for(CASES[name]())
    with open_remote(OPENER, path, settings) as remote, opened_here(path, 0) as here:
        assert (remote.inputs, remote.outputs, remote.device) == (here.inputs, here.outputs, here.device)
        found, expected = remote.infer(feed), here.infer(feed)
        assert list(found) == list(expected)
        for output, values in expected.items():
            assert found[output].dtype == values.dtype
            np.testing.assert_array_equal(found[output], values)
        assert remote.time(feed) > 0


def test_every_type_and_empty_and_strided_arrays_pass(tmp_path: Path, settings: Settings) -> None:
    kinds = {"float": "float32", "double": "float64", "float16": "float16", "int8": "int8", "uint8": "uint8",
             "int16": "int16", "uint16": "uint16", "int32": "int32", "uint32": "uint32", "int64": "int64",
             "uint64": "uint64", "bool": "bool", "string": "object"}  # fmt: skip
    given = ", ".join(f"{kind}[N,M] i_{kind}" for kind in kinds)
    taken = ", ".join(f"{kind}[N,M] o_{kind}" for kind in kinds)
    nodes = " ".join(f"o_{kind} = Identity(i_{kind})" for kind in kinds)
    with open_remote(
        OPENER, save(model(f"({given}) => ({taken}) {{ {nodes} }}"), tmp_path / "m.onnx"), settings
    ) as runner:
        for shape in ((3, 5), (0, 4), (1, 1)):
            numbers = np.arange(2 * shape[0] * shape[1]).reshape(shape[1], 2 * shape[0])[:, ::2].T  # strided
            feed = {f"i_{kind}": numbers.astype(str if kind == "string" else dtype) for kind, dtype in kinds.items()}
            for kind, values in ((kind, runner.infer(feed)[f"o_{kind}"]) for kind in kinds):
                assert values.shape == shape
                assert values.tolist() == feed[f"i_{kind}"].tolist()


def test_outputs_stay_when_the_next_run_comes_and_when_all_is_over(tmp_path: Path, settings: Settings) -> None:
    with open_remote(OPENER, save(conv_net(), tmp_path / "m.onnx"), settings) as runner:
        first, second = (runner.infer({"x": normal(2, 3, 8, 8, seed=seed)})["y"] for seed in (1, 2))
        kept = first.copy()
        runner.infer({"x": normal(512, 3, 8, 8)})  # larger: the shared memory grows
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_feeds_that_travel_together_give_what_each_gives_alone(tmp_path: Path, settings: Settings) -> None:
    feeds = [{"x": normal(rows, 3, 8, 8, seed=rows)} for rows in (1, 4, 2)]
    with open_remote(OPENER, save(conv_net(), tmp_path / "m.onnx"), settings) as runner:
        together = runner.infer_all(feeds)
        runner.infer(feeds[1])  # writes over the memory
        for feed, found in zip(feeds, together, strict=True):
            np.testing.assert_array_equal(found["y"], runner.infer(feed)["y"])


@pytest.mark.parametrize("isolate", [True, False])
def test_graphs_take_turns(tmp_path: Path, settings: Settings, isolate: bool) -> None:
    feed = {"x": np.ones(3, np.float32)}
    for name, op in (("add", "Add"), ("mul", "Mul"), ("broken", "NoSuchOp")):
        save(model(f"(float[N] x) => (float[N] {name}) {{ {name} = {op}(x, x) }}"), tmp_path / f"{name}.onnx")
    with OnnxRuntime().in_turn(replace(settings, isolate=isolate)) as turn:
        assert turn(tmp_path / "add.onnx").infer(feed)["add"].tolist() == [2, 2, 2]
        runner = turn(tmp_path / "mul.onnx", few=True)
        assert [output.name for output in runner.outputs] == ["mul"]
        assert [found["mul"].tolist() for found in runner.infer_all([feed, feed])] == [[1, 1, 1]] * 2
        with pytest.raises(StageError, match=r"^broken\.onnx: onnxruntime cannot load the model: .*NoSuchOp"):
            turn(tmp_path / "broken.onnx")


@linux_only
def test_graphs_that_take_turns_share_a_child(tmp_path: Path, settings: Settings) -> None:
    path = save(conv_net(), tmp_path / "m.onnx")
    with open_remote_in_turn(OPENER, settings) as turn:
        turn(path)
        first = children_of(server())
        turn(path)
        assert children_of(server()) == first


@divides_deadly
def test_data_that_crash_a_graph_that_ran_before_cost_one_error(tmp_path: Path, settings: Settings) -> None:
    path = save(divided(), tmp_path / "divided.onnx")
    with open_remote(OPENER, path, settings) as runner:
        assert runner.infer(ONES)["z"].tolist() == [1, 1, 1]
        for _ in range(2):  # and it stays dead
            with pytest.raises(WorkerError, match=r"crashed \(SIGFPE\) while running divided\.onnx"):
                runner.infer(DEADLY)
        with pytest.raises(WorkerError):
            runner.infer(ONES)
    with open_remote(OPENER, path, settings) as runner:
        assert runner.infer(ONES)["z"].tolist() == [1, 1, 1]


@divides_deadly
def test_one_crash_leaves_other_graphs_alone(tmp_path: Path, settings: Settings) -> None:
    path = save(divided(), tmp_path / "m.onnx")
    with open_remote(OPENER, path, settings) as one, open_remote(OPENER, path, settings) as other:
        with pytest.raises(WorkerError):
            one.infer(DEADLY)
        assert other.infer(ONES)["z"].tolist() == [1, 1, 1]


def test_a_graph_that_never_ends_is_stopped(tmp_path: Path) -> None:
    proto = plain()
    loop(1 << 62)(proto)
    path = save(proto, tmp_path / "graph.onnx")
    started = time.monotonic()
    with (
        open_remote(OPENER, path, Settings(cache_dir=tmp_path, worker_seconds=2.0)) as runner,
        pytest.raises(WorkerError, match=r"time limit of 2\.0 s while running graph\.onnx"),
    ):
        runner.infer({"x": np.zeros((2, 4), np.float32)})
    assert time.monotonic() - started < 20  # not the limit, which a loaded machine may stretch, but an end


@linux_only
def test_a_graph_that_takes_all_memory_is_stopped(tmp_path: Path) -> None:
    proto = plain()
    tensor(proto, "size", [1 << 31])
    add(proto, "ConstantOfShape", ["size"], ["much"])  # 8 GB
    add(proto, "ReduceSum", ["much"], ["sum"], keepdims=0)
    add(proto, "Add", ["sum", "y"], ["z"])
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 3]))
    settings = Settings(cache_dir=tmp_path, worker_seconds=60.0, worker_memory=500 << 20)
    with (
        pytest.raises(WorkerError, match=r"memory limit of 524 MB while (opening|running) g\.onnx"),
        open_remote(OPENER, save(proto, tmp_path / "g.onnx"), settings) as runner,
    ):
        runner.infer({"x": np.zeros((2, 4), np.float32)})


def test_refusals_are_those_of_this_process(tmp_path: Path, settings: Settings) -> None:
    with open_remote(OPENER, save(conv_net(), tmp_path / "m.onnx"), settings) as runner:
        for feed in ({}, {"x": np.zeros((2, 4, 8, 8), np.float32)}, {"x": np.zeros((2, 3, 8, 8))}):
            with pytest.raises(InputError, match=r"m\.onnx: onnxruntime cannot run this feed"):
                runner.infer(feed)
        assert runner.infer({"x": normal(2, 3, 8, 8)})["y"].shape == (2, 5)
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with (
        pytest.raises((StageError, InputError), match=r"noise\.onnx"),
        open_remote(OPENER, tmp_path / "noise.onnx", settings),
    ):
        pass


@linux_only
def test_children_end_with_their_graphs_and_leave_nothing_open(tmp_path: Path, settings: Settings) -> None:
    path = save(conv_net(), tmp_path / "m.onnx")
    with open_remote(OPENER, path, settings):
        pass
    before, handles = children_of(server()), len(list(HANDLES.iterdir()))
    for _ in range(3):
        with open_remote(OPENER, path, settings) as runner:
            assert len(children_of(server()) - before) == 1
            runner.infer({"x": normal(2, 3, 8, 8)})
    with suppress(KeyError), open_remote(OPENER, path, settings):
        raise KeyError
    assert children_of(server()) == before
    assert len(list(HANDLES.iterdir())) == handles


@linux_only
def test_a_fork_server_that_was_killed_is_started_again(tmp_path: Path, settings: Settings) -> None:
    path = save(conv_net(), tmp_path / "m.onnx")
    with open_remote(OPENER, path, settings) as runner:
        killed = server()
        os.kill(killed, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while killed in children_of(os.getpid()) and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(WorkerError, match=r"while running m\.onnx"):
            runner.infer({"x": normal(2, 3, 8, 8)})
    with open_remote(OPENER, path, settings) as runner:
        assert runner.infer({"x": normal(2, 3, 8, 8)})["y"].shape == (2, 5)
    assert server() != killed


@linux_only
def test_the_reply_to_an_interrupted_request_is_not_taken_for_the_next(tmp_path: Path, settings: Settings) -> None:
    path = save(conv_net(), tmp_path / "model.onnx")
    server_of(os.getpid()).close()  # starting it takes longer than the interruption does to come
    usual = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt), open_remote(OPENER, path, settings):
            raise AssertionError("opened before the interruption came")
    finally:
        signal.signal(signal.SIGALRM, usual)
    feed = feed_for(conv_net())
    with open_remote(OPENER, path, settings) as remote, opened_here(path, 0) as here:
        assert len(children_of(server())) == 1
        for output, values in here.infer(feed).items():
            np.testing.assert_array_equal(remote.infer(feed)[output], values)


def test_all_end_with_the_parent_even_in_the_middle_of_a_run(tmp_path: Path) -> None:
    proto = plain()
    loop(1 << 62)(proto)
    path = save(proto, tmp_path / "g.onnx")
    script = textwrap.dedent("""
        import sys, threading
        from pathlib import Path
        import numpy as np
        from trtpipe.backends.onnxruntime import OPENER
        from trtpipe.isolation.remote_runner import open_remote
        from trtpipe.config.settings import Settings
        with open_remote(OPENER, Path(sys.argv[1]), Settings(cache_dir=Path("/nowhere"))) as runner:
            print("open", flush=True)
            runner.infer({"x": np.zeros((2, 4), np.float32)})
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"open\n"
        (first,) = children_of(parent.pid)
        family = {first, *children_of(first)}
        assert len(family) == 2
        parent.kill()
    deadline = time.monotonic() + 20
    while family & running() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not family & running()


def running() -> set[int]:
    return {child for parent in (int(p.name) for p in Path("/proc").glob("[0-9]*")) for child in children_of(parent)}


class Question(Record):
    """What the tasks below are asked."""

    path: str = ""


class Answer(Record):
    """What they answer."""

    text: str


LIMITS = Limits(seconds=30.0, memory=4 << 30)
COUNT = "trtpipe.quantization.mac_count:count_task"


def test_a_task_sees_its_own_folder_only(tmp_path: Path) -> None:
    from trtpipe.quantization.mac_count import CountRequest, Counts

    for name in ("mine", "yours"):
        (tmp_path / name).mkdir()
        save(conv_net(), tmp_path / name / "m.onnx")
    request = CountRequest(model=str(tmp_path / "mine" / "m.onnx"), shapes={"x": (2, 3, 8, 8)})
    found = call_forked(COUNT, request, Counts, limits=LIMITS, what="counting", reads=(tmp_path / "mine",))
    assert [macs for macs in found.macs if macs is not None]
    other = request.model_copy(update={"model": str(tmp_path / "yours" / "m.onnx")})
    with pytest.raises((HostError, InputError), match=r"m\.onnx"):
        call_forked(COUNT, other, Counts, limits=LIMITS, what="counting", reads=(tmp_path / "mine",))


def forked(model: Path, task: str, limits: Limits, progress: NullProgress | None = None) -> EngineRecord:
    request = NullRequest(model=str(model), plan=str(model.with_name("e.plan")), target="sm89")
    return call_forked(
        task, request, EngineRecord, limits=limits, what="building", reads=(model.parent,), workdir=model.parent,
        progress=progress,
    )  # fmt: skip


def test_a_task_reports_progress_and_writes_into_its_work_folder(tmp_path: Path, heard: Heard) -> None:
    path = save(conv_net(), tmp_path / "m.onnx")
    assert forked(path, "trtpipe.backends.null:build_task", LIMITS, heard).target == "sm89"
    assert heard.reports == [("building", 0, 1), ("building", 1, 1)]
    assert {file.name for file in tmp_path.iterdir()} == {"m.onnx", "e.plan"}


@linux_only
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("crash", WorkerCrashed), ("abort", WorkerCrashed), ("divide", WorkerCrashed), ("killed", OutOfMemory),
        ("huge", OutOfMemory), ("leak", OutOfMemory), ("hang", OutOfTime), ("chatter", OutOfTime),
        ("vanish", WorkerError), ("fail", BuildError), ("bug", InternalError), ("full-disk", HostError),
    ],
)  # fmt: skip
def test_however_a_task_ends_it_is_a_typed_error(tmp_path: Path, name: str, error: type[Exception]) -> None:
    path = save(conv_net(), tmp_path / "m.onnx")
    limits = Limits(seconds=1.5 if error is OutOfTime else 60.0, memory=600_000_000)
    with pytest.raises(error) as caught:
        forked(path, fault(name), limits)
    assert type(caught.value) is error
    if isinstance(caught.value, WorkerError) and name != "huge":
        assert caught.value.phase == "building"
    assert {file.name for file in tmp_path.iterdir()} == {"m.onnx"}


def test_a_cancelled_task_is_ended(tmp_path: Path) -> None:
    class Cancelling(NullProgress):
        stopped = False

        def advance(self, phase: str, done: int, total: int | None) -> None:
            self.stopped = True

    with pytest.raises(Cancelled):
        forked(save(conv_net(), tmp_path / "m.onnx"), fault("hang"), LIMITS, Cancelling())


def test_a_task_of_others_is_none(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="takes no Record"):
        call_forked("os:system", Question(), Answer, limits=LIMITS, what="a test", reads=())


@pytest.fixture
def crowded() -> Iterator[None]:
    """No file may be opened any more."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(path.name) for path in HANDLES.iterdir()) + 1, hard))
    taken = []
    with suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    yield
    for handle in taken:
        os.close(handle)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@linux_only
def test_too_many_open_files_are_named(tmp_path: Path, settings: Settings, request: pytest.FixtureRequest) -> None:
    path = save(conv_net(), tmp_path / "m.onnx")
    with open_remote(OPENER, path, settings):
        pass
    request.getfixturevalue("crowded")
    with pytest.raises(HostError, match=r"m\.onnx: Too many open files"), open_remote(OPENER, path, settings):
        pass
    with pytest.raises(HostError, match=r"cannot read m\.onnx: too many open files"), opened_here(path, 0):
        pass


@linux_only
def test_a_program_with_a_thousand_files_open_runs_graphs_too(tmp_path: Path) -> None:
    path = save(conv_net(), tmp_path / "m.onnx")
    np.savez(tmp_path / "feed.npz", **feed_for(conv_net()))
    script = textwrap.dedent(f"""
        import os, resource
        from pathlib import Path
        import numpy as np
        from trtpipe.backends.onnxruntime import OPENER
        from trtpipe.isolation.remote_runner import open_remote
        from trtpipe.config.settings import Settings

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        for _ in range(1100):
            os.open(os.devnull, os.O_RDONLY)
        feed = dict(np.load({str(tmp_path / "feed.npz")!r}))
        with open_remote(OPENER, Path({str(path)!r}), Settings(cache_dir=Path({str(tmp_path)!r}))) as runner:
            print(runner.infer(feed)["y"].shape)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str((*feed_for(conv_net())["x"].shape[:1], 5))
