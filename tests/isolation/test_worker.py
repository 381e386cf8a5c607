from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from fault_injection import fault

from trtpipe.backends.null import NullRequest
from trtpipe.config.settings import Settings
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import BuildError, HostError, InputError, InternalError, WorkerError
from trtpipe.isolation.linux import group_memory, machine_memory, process_memory
from trtpipe.isolation.worker import LIGHT, Limits, call, limits_for
from trtpipe.isolation.worker_main import resolve
from trtpipe.progress import NullProgress

TASK = "trtpipe.backends.null:build_task"
PLENTY = Limits(seconds=60.0, memory=4 << 30)
linux_only = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def run(
    model: Path,
    task: str = TASK,
    *,
    limits: Limits = PLENTY,
    progress: NullProgress | None = None,
) -> EngineRecord:
    plan = model.parent / "engine.plan"
    request = NullRequest(model=str(model), plan=str(plan), target="sm89")
    return call(
        task,
        request,
        EngineRecord,
        limits=limits,
        progress=progress or NullProgress(),
        what="building sm89 from model.onnx",
        workdir=model.parent,
        reads=(model.parent,),
    )


def children() -> set[int]:
    """Process ids of this process's living children."""
    mine = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z":
            mine.add(int(stat.parent.name))
    return mine


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_answer_and_progress_arrive(conv_net, heard):
    facts = run(conv_net, progress=heard)
    assert facts.target == "sm89"
    assert [spec.name for spec in facts.io.inputs] == ["x"]
    assert (conv_net.parent / "engine.plan").exists()
    assert ("building", 0, 1) in heard.reports
    assert heard.reports[-1] == ("building", 1, 1)


@pytest.mark.parametrize("task", [TASK, fault("crash")])
def test_nothing_is_left_behind(conv_net, task):
    before = {entry.name for entry in conv_net.parent.iterdir()}
    with suppress(WorkerError):
        run(conv_net, task, limits=Limits(seconds=60.0, memory=400_000_000))
    assert {entry.name for entry in conv_net.parent.iterdir()} - before <= {"engine.plan"}


def test_the_tasks_own_error_comes_back_as_it_was(conv_net):
    with pytest.raises(BuildError) as caught:
        run(conv_net, fault("fail"))
    assert type(caught.value) is BuildError
    assert caught.value.message == "the build failed on purpose"
    assert caught.value.remedy == "do not inject a fault"


def test_an_input_error_keeps_its_class(tmp_path):
    missing = tmp_path / "none.onnx"
    with pytest.raises(InputError, match="no such file"):
        run(missing)


def test_any_other_error_is_our_bug_and_shows_the_childs_traceback(conv_net):
    with pytest.raises(InternalError) as caught:
        run(conv_net, fault("bug"))
    assert "ValueError: a bug on purpose" in str(caught.value)
    assert "fault_injection.py" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("crash", r"crashed \(SIGSEGV\) while building sm89 from model\.onnx .*last output: about to read address 8"),
        ("abort", r"crashed \(SIGABRT\) while building sm89 from model\.onnx"),
        ("divide", r"crashed \(SIGFPE\) while building sm89 from model\.onnx"),
        ("killed", r"killed \(SIGKILL\) while building sm89 from model\.onnx.*memory"),
        ("huge", r"out of memory while building sm89 from model\.onnx"),
        ("vanish", r"ended without a reply while building sm89"),
        ("garble", r"ended without a reply while building sm89"),
    ],
)
def test_every_end_has_its_own_error(conv_net, name, words):
    with pytest.raises(WorkerError, match=words) as caught:
        run(conv_net, fault(name))
    assert caught.value.remedy
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("name", ["hang", "chatter"])
def test_the_time_limit_stops_it(conv_net, name):
    with pytest.raises(WorkerError, match=r"time limit of 1\.0 s while building sm89 from model\.onnx"):
        run(conv_net, fault(name), limits=Limits(seconds=1.0, memory=4 << 30))


@linux_only
def test_endless_output_takes_no_memory_of_ours(conv_net):
    before = group_memory(os.getpgrp())
    with pytest.raises(WorkerError):
        run(conv_net, fault("chatter"), limits=Limits(seconds=1.0, memory=4 << 30))
    assert group_memory(os.getpgrp()) - before < 50_000_000


@linux_only
def test_the_memory_limit_stops_it(conv_net):
    with pytest.raises(WorkerError, match=r"memory limit of 300 MB while building sm89"):
        run(conv_net, fault("leak"), limits=Limits(seconds=60.0, memory=300_000_000))


@linux_only
def test_a_hundred_gigabytes_at_once(conv_net):
    with pytest.raises(WorkerError, match=r"(out of memory|memory limit of 1\.0 GB) while building sm89"):
        run(conv_net, fault("gulp"), limits=Limits(seconds=60.0, memory=1_000_000_000))


@linux_only
def test_a_device_that_is_full(conv_net):
    with pytest.raises(HostError, match=r"no space left on the device holding .* while building sm89"):
        run(conv_net, fault("full-device"), limits=replace(PLENTY, confined=False))  # the sandbox has no such device


def test_a_full_disk_is_the_environments_fault(conv_net):
    with pytest.raises(HostError, match=r"no space left on the device holding engine\.plan"):
        run(conv_net, fault("full-disk"))


def test_a_folder_that_cannot_be_written_is_the_environments_fault(conv_net, tmp_path):
    with pytest.raises(HostError, match="cannot start a worker process for building"):
        call(
            TASK,
            NullRequest(model=str(conv_net), plan="p", target="sm89"),
            EngineRecord,
            limits=PLENTY,
            progress=NullProgress(),
            what="building",
            workdir=tmp_path / "missing",
        )


@pytest.mark.parametrize("task", ["os:system", "json:loads", "trtpipe.config.units:parse_bytes"])
def test_only_functions_written_as_tasks_run(conv_net, task):
    with pytest.raises(InternalError, match="takes no Record"):
        run(conv_net, task=task)


def test_a_task_is_found_with_the_record_it_takes():
    function, request = resolve(TASK)
    assert function.__name__ == "build_task"
    assert request is NullRequest


def test_an_interrupt_kills_the_child_and_goes_on(conv_net):
    class Interrupts(NullProgress):
        def advance(self, phase: str, done: int, total: int | None) -> None:
            self.seen = children()
            raise KeyboardInterrupt

    interrupts, before = Interrupts(), children()
    with pytest.raises(KeyboardInterrupt):
        run(conv_net, fault("hang"), progress=interrupts)
    started = interrupts.seen - before
    assert len(started) == 1
    assert not any(alive(pid) for pid in started)


@linux_only
def test_the_child_dies_with_its_parent(conv_net):
    script = textwrap.dedent("""
        import sys
        from trtpipe.engine.record import EngineRecord
        from trtpipe.backends.null import NullRequest
        from trtpipe.isolation.worker import Limits, call
        from trtpipe.progress import NullProgress

        class Tells(NullProgress):
            def advance(self, phase, done, total):
                print("running", flush=True)

        request = NullRequest(model=sys.argv[1], plan="p", target="sm89")
        limits = Limits(seconds=60, memory=4 << 30)
        call("fault_injection:hang", request, EngineRecord, limits=limits, progress=Tells(), what="x")
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", script, str(conv_net)], stdout=subprocess.PIPE, env=environment)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"running\n"
        [child] = [
            int(stat.parent.name)
            for stat in Path("/proc").glob("[0-9]*/stat")
            if stat.exists() and stat.read_text().rpartition(")")[2].split()[1] == str(parent.pid)
        ]
        assert alive(child)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.communicate()
    assert wait_until(lambda: not alive(child))


def test_the_working_folder_cannot_shadow_modules(conv_net, monkeypatch):
    trap = conv_net.parent / "elsewhere"
    trap.mkdir()
    for module in ("json", "trtpipe", "tempfile"):
        (trap / f"{module}.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(trap)
    assert run(conv_net).target == "sm89"


def test_limits_take_the_nearest_word():
    settings = Settings(cache_dir=Path(), worker_seconds=7.0, worker_memory=1000)
    assert limits_for(settings) == Limits(seconds=7.0, memory=1000)
    assert limits_for(settings, seconds=3.0, memory=5) == Limits(seconds=3.0, memory=5)
    assert not limits_for(Settings(cache_dir=Path(), sandbox=False)).confined


def test_limits_that_nobody_set_follow_from_the_models_size():
    unset = Settings(cache_dir=Path())
    most = int(0.9 * machine_memory())
    assert limits_for(unset) == Limits(seconds=3600.0, memory=min(most, 16 << 30))
    assert limits_for(unset, size=10**9).seconds == 3600 + 10_000
    assert limits_for(unset, size=10**12).memory == most
    assert limits_for(unset, work=LIGHT).seconds == 50.0
    assert limits_for(unset, work=LIGHT, size=100_000_000).seconds == 250.0
    assert limits_for(unset, work=LIGHT, nodes=20_000).seconds == 250.0


@linux_only
def test_group_memory_counts_the_whole_group():
    code = "import os, time; block = b'x' * 50_000_000; os.fork(); os.write(1, b'up\\n'); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        assert [process.stdout.readline(), process.stdout.readline()] == [b"up\n", b"up\n"]
        assert 100_000_000 <= group_memory(process.pid) < 400_000_000
        assert 50_000_000 <= process_memory(process.pid) <= group_memory(process.pid) - 50_000_000
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert group_memory(process.pid) == process_memory(process.pid) == 0
