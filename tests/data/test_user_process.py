"""What functions of the user do to the process they run in, and how little of it reaches this one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from trtpipe.data.user_process import Unusable, UserProcess
from trtpipe.errors import HostError, InputError, UserCodeError
from trtpipe.isolation.fork_client import server_of
from trtpipe.isolation.worker import Limits

LIMITS = Limits(seconds=60.0, memory=2 << 30)
HEAD = "import os, sys, signal, time, resource, json\nimport numpy as np\n"

Make: TypeAlias = Callable[..., UserProcess]


@pytest.fixture
def function(tmp_path: Path) -> Make:
    """The function ``f`` of a file with this body."""

    def make(body: str, limits: Limits = LIMITS, arguments: str = "") -> UserProcess:
        lines = "\n    ".join(body.splitlines())
        (tmp_path / "code.py").write_text(f"{HEAD}def f({arguments}):\n    {lines}\n")
        return UserProcess(f"{tmp_path / 'code.py'}:f", limits)

    return make


def yields(found: UserProcess) -> list[float]:
    return [float(item) for item in found.items()]


#: Processes that a function may start, and leave behind.
STARTED = "subprocess.Popen(['sleep', '60']).pid"
FORKED = "multiprocessing.get_context('fork').Pool(1)._pool[0].pid"


def ends(process: int) -> bool:
    """Whether a process ends before long."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


class TestItems:
    def test_come_as_they_were_yielded(self, function: Make) -> None:
        found = function(
            "yield {'x': np.arange(3), 'y': [1.5]}\n"
            "yield np.float16([2]), [7]\n"
            "yield {'t': np.array(['a', 'bc'])}\n"
            "yield 5"
        )
        mapping, pair, texts, number = (
            [*item] if isinstance(item, tuple) else item for item in map(copied, found.items())
        )
        assert {name: (value.dtype.name, value.tolist()) for name, value in mapping.items()} == {
            "x": ("int64", [0, 1, 2]),
            "y": ("float64", [1.5]),
        }
        assert (pair[0].dtype, pair[0].tolist(), pair[1].tolist()) == (np.float16, [2], [7])
        assert texts["t"].tolist() == ["a", "bc"]
        assert number == 5

    def test_begin_anew_with_each_iteration_and_iterations_may_overlap(self, function: Make) -> None:
        found = function("for i in range(3): yield i")
        assert [(float(a), float(b)) for a, b in zip(found.items(), found.items(), strict=True)] == [
            (i, i) for i in range(3)
        ]
        assert yields(found) == [0, 1, 2]

    def test_beyond_the_memory_of_the_machine(self, function: Make) -> None:
        with pytest.raises(InputError, match=r"code\.py:f: an item of 2,?251,?800 GB"):
            yields(function("yield np.broadcast_to(np.float32(1), (2**31, 2**18))"))

    def test_beyond_the_size_of_files(self, function: Make) -> None:
        body = "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\nyield np.ones(1000)"
        with pytest.raises(HostError, match="File too large: shared memory while") as caught:
            yields(function(body))
        assert "ulimit -f" in caught.value.remedy

    def test_that_are_none(self, function: Make) -> None:
        found = function("yield object()\nyield {'x': [[1], [1, 2]]}\nyield [{}]\nyield np.zeros(1, [('a', 'i4')])")
        assert [(type(item), item.arrays) for item in found.items()] == [
            (Unusable, arrays) for arrays in (False, True, True, True)
        ]

    def test_the_surroundings_are_the_users(
        self, function: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OF_THE_USER", "secret")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "here").write_text("7")
        assert yields(function("assert os.environ['OF_THE_USER'] == 'secret'\nyield float(open('here').read())")) == [7]

    def test_the_secret_of_the_cache_is_not_theirs(self, function: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRTPIPE_CACHE_KEY", "a secret of sixteen and more")
        assert yields(function("yield 'TRTPIPE_CACHE_KEY' in os.environ")) == [0]

    def test_processes_of_their_own_work(self, function: Make) -> None:
        body = (
            "import multiprocessing\n"
            "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
            "    yield from pool.map(abs, [-1, -2])"
        )
        assert yields(function(body)) == [1, 2]

    def test_random_numbers_differ_between_processes(self, function: Make) -> None:
        body = "import random\nyield np.random.rand() + random.random()"
        assert yields(function(body)) != yields(function(body))


def copied(item: object) -> object:
    if isinstance(item, dict):
        return {name: value.copy() for name, value in item.items()}
    return tuple(each.copy() for each in item) if isinstance(item, tuple) else np.array(item)


class TestEnds:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("os._exit(0)", "ended its process with exit status 0 while yielding sample 1"),
            ("os._exit(3)", "ended its process with exit status 3"),
            ("os.kill(os.getpid(), signal.SIGKILL)", "was killed"),
            ("import ctypes; ctypes.string_at(0)", "crashed its process .SIGSEGV."),
            ("os.abort()", "crashed its process .SIGABRT."),
            ("os.closerange(3, 1024)", "closed files that it had not opened"),
            ("os.closerange(3, 1024); [open(os.devnull) for _ in range(50)]", "closed files that it had not opened"),
            ("os.closerange(3, 1024); time.sleep(60)", "closed files that it had not opened"),
            ("os.fork() == 0 and time.sleep(60); os._exit(4)", "ended its process with exit status 4"),
        ],
    )
    def test_of_its_process(self, function: Make, body: str, words: str) -> None:
        found = function(f"yield 0\n{body}\nyield 1")
        with pytest.raises(UserCodeError, match=rf"code\.py:f {words}"):
            yields(found)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("sys.exit(0)", "SystemExit: 0 .code.py, line 5."),
            ("raise GeneratorExit", "GeneratorExit"),
            ("class Own(BaseException): pass\nraise Own('x')", "Own: x"),
            ("raise StopIteration", "RuntimeError"),
            ("again = lambda: again()\nagain()", "RecursionError"),
            ("raise MemoryError", "MemoryError"),
            ("class E(Exception):\n    def __str__(self): sys.exit(0)\nraise E", "E: .its text cannot be made: System"),
            ("raise ValueError('\\ud800')", r"ValueError: \\ud800"),
            ("raise ValueError('x' * 1_000_000)", r"ValueError: x{2000}\.\.\. "),
        ],
    )
    def test_by_an_exception(self, function: Make, body: str, words: str) -> None:
        with pytest.raises(InputError, match=rf"code\.py:f: sample 1 failed: .*{words}"):
            yields(function(f"yield 0\n{body}\nyield 1"))

    def test_by_an_interruption_of_its_own(self, function: Make) -> None:
        with pytest.raises(KeyboardInterrupt):
            yields(function("yield 0\nraise KeyboardInterrupt"))

    def test_an_endless_loop_reaches_the_limit_but_slow_progress_does_not(self, function: Make) -> None:
        limits = Limits(seconds=1.5, memory=2 << 30)
        assert len(yields(function("for i in range(3):\n    time.sleep(0.7)\n    yield i", limits))) == 3
        with pytest.raises(UserCodeError, match=r"code\.py:f made no progress for 1\.5 s while yielding sample 1"):
            yields(function("yield 0\nwhile True: pass", limits))

    def test_too_much_memory(self, function: Make) -> None:
        found = function("yield 0\nheld = []\nwhile True: held.append(b'x' * 10_000_000)", Limits(60.0, 600_000_000))
        with pytest.raises(UserCodeError, match=r"code\.py:f reached the memory limit of 600"):
            yields(found)

    def test_what_it_printed_last_is_said_and_the_rest_is_not_kept(self, function: Make) -> None:
        found = function("yield 0\nfor i in range(100_000): print('line', i)\nos._exit(1)")
        with pytest.raises(UserCodeError, match=r"(?m)last output: .*line 99999$") as caught:
            yields(found)
        assert len(caught.value.message) < 1000

    def test_while_it_is_loaded(self, tmp_path: Path) -> None:
        (tmp_path / "code.py").write_text("import os\nos._exit(0)\n")
        with pytest.raises(UserCodeError, match=r"code\.py:f ended its process .* while loading code\.py"):
            UserProcess(f"{tmp_path / 'code.py'}:f", LIMITS)


class TestThisProcess:
    @pytest.mark.parametrize(
        "body",
        [
            "os.chdir('/')",
            "os.umask(0o777)",
            "os.environ.clear()",
            "np.seterr(all='raise')",
            "json.dumps = np.asarray = None",
            "resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))",
            "signal.signal(signal.SIGINT, signal.SIG_IGN)",
            "sys.path.clear()",
        ],
    )
    def test_does_not_notice(self, function: Make, body: str) -> None:
        def state() -> object:
            os.umask(mask := os.umask(0o77))
            return Path.cwd(), mask, dict(os.environ), np.geterr(), np.asarray, signal.getsignal(signal.SIGINT)

        before = state()
        assert yields(function(f"yield 0\n{body}\nyield 1")) == [0, 1]
        assert state() == before

    def test_a_fork_of_the_functions_does_not_go_on(self, function: Make, tmp_path: Path) -> None:
        body = (
            "for i in range(6):\n"
            "    if i == 2 and os.fork():\n"
            f"        while '2' not in open({str(tmp_path / 'log')!r}).read(): pass\n"
            f"    open({str(tmp_path / 'log')!r}, 'a').write(f'{{i}} ')\n"
            "    yield i"
        )
        assert yields(function(body)) == [0, 1, 2, 3, 4, 5]
        assert (tmp_path / "log").read_text().split() == ["0", "1", "2", "2", "3", "4", "5"]

    @pytest.mark.parametrize("process", ["os.getpid()", STARTED, FORKED])
    def test_nothing_is_left_when_it_is_dropped(self, function: Make, process: str) -> None:
        found = function(f"import subprocess, multiprocessing\nyield {process}\nyield 1")
        walk = found.items()
        number = int(next(walk))
        walk.close()
        del walk, found
        assert ends(number)

    def test_nothing_is_left_when_its_server_is_closed(self, function: Make) -> None:
        found = function(f"import subprocess\nyield {STARTED}\nyield 1")
        number = int(next(found.items()))
        server_of(os.getpid()).close()
        assert ends(number)


class TestScores:
    def test_texts_that_are_none(self, function: Make) -> None:
        with pytest.raises(InputError, match=r"code\.py:f gave a name or a text that is not valid Unicode"):
            function("return {'\\ud800': 1.0}", arguments="run").evaluate(lambda feed: {}, 1)

    def test_arrays_are_copies(self, function: Make) -> None:
        found = function("o['y'][...] = 0\nl[...] = 9\nreturn [1, 2]", arguments="o, l")
        outputs, labels = {"y": np.ones((2, 3), np.float32)}, np.zeros(2, np.int64)
        assert found.score(outputs, labels, 2).tolist() == [1, 2]
        assert outputs["y"].all()
        assert not labels.any()

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("return np.ones(10**7)", "10,000,000 scores for 4 samples"),
            ("return 'high'", "str, not numbers"),
            ("os._exit(0)", "exit status 0 while measuring"),
            ("import unittest\nraise unittest.SkipTest('x')", "raised SkipTest: x"),
        ],
    )
    def test_that_are_none(self, function: Make, body: str, words: str) -> None:
        with pytest.raises(InputError, match=rf"code\.py:f .*{words}"):
            function(body, arguments="o, l").score({"y": np.ones(4)}, None, 4)

    def test_an_evaluation_asks_for_the_outputs(self, function: Make) -> None:
        body = (
            "y = run({'x': np.ones(2)})['y']\ny[...] += 1\nreturn {'a': float(y.sum()), 'per_sample': y, 'text': 'x'}"
        )
        held = np.array([1.0, 3.0])
        values, scores = function(body, arguments="run").evaluate(lambda feed: {"y": feed["x"] * held}, 2)
        assert (values, scores.tolist() if scores is not None else None) == ({"a": 6.0}, [2.0, 4.0])
        assert held.tolist() == [1, 3]

    def test_what_the_model_raises_is_raised_here(self, function: Make) -> None:
        def fail(feed: object) -> dict[str, np.ndarray]:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            function("try: run({})\nexcept Exception: return {'a': 1}", arguments="run").evaluate(fail, 2)
