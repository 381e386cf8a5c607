"""Does what people build go through: small networks with random weights, from the module to engines in fp16 and int8.

    python benchmarks/zoo.py FOLDER [--only PATTERN ...] [--precisions fp16 int8] [--every N] [--out RESULT.json]

Networks: families of timm, classes of transformers, and some by hand (``zoo_models.py``). FOLDER takes the packages
they come from (``zoo_requirements.txt``, pinned; 400 MB) and ``results.jsonl``, a line a build: what is there is not
built again, so that a run that was ended goes on. The three groups take turns, so that a part of a run has seen all
kinds. Each is built by ``trtpipe.build`` for sm89 in a process of its group (``zoo_build.py``);
the builds of one network share a cache, as a user's would. Lowered graphs, Q/DQ pairs computed as written, are then
compared with PyTorch on inputs that the build has not seen.

With random weights a network's outputs hardly depend on its inputs, so that int8 may well miss the gate (exit status 3)
and be right to. What has to be: nothing crashes, hangs or ends untyped, what is refused is refused with node or line
and reason, and nothing passes that is far off. The exit status is 1 if it is not so. ``--report`` builds nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path

from process_pool import Job, sweep
from zoo_results import Built, read, summarize, table

HERE = Path(__file__).resolve().parent
#: seconds the builds of one network may take
_LIMIT = 1800.0


@dataclass(frozen=True)
class Task:
    """A network, and the precisions in which it is still to be built."""

    name: str
    precisions: tuple[str, ...]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=["*"], help="shell patterns of names: hf/*, timm/swin*")
    parser.add_argument("--precisions", nargs="+", default=["fp16", "int8"])
    parser.add_argument("--every", type=int, default=1, help="only every N-th")
    parser.add_argument("--report", action="store_true", help="only what was built already")
    parser.add_argument("--out", type=Path, help="the summary as JSON")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    prepared(folder)
    results = folder / "results.jsonl"
    done = {(built.name, built.precision): built for built in read(results)}
    wanted = [
        name for name in names()[:: arguments.every] if any(fnmatchcase(name, pattern) for pattern in arguments.only)
    ]
    tasks = [Task(name, tuple(each for each in arguments.precisions if (name, each) not in done)) for name in wanted]
    tasks = [] if arguments.report else [task for task in tasks if task.precisions]
    for count, found in enumerate(builds(tasks, folder / "work"), start=1):
        for built in found:
            done[built.name, built.precision] = built
            with results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(built)) + "\n")
            print(f"{count} of {len(tasks)}: {built.name} {built.precision}: {built.outcome}", file=sys.stderr)
    every = [done[name, each] for name in wanted for each in arguments.precisions if (name, each) in done]
    print(table(every, arguments.precisions))
    if arguments.out:
        arguments.out.write_text(json.dumps(summarize(every), indent=1) + "\n", encoding="utf-8")
    return 1 if any(built.outcome not in ("passed", "gate failed", "refused") for built in every) else 0


def prepared(folder: Path) -> None:
    """Make the packages importable for processes that start from now on; they are installed if they are not there.

    torchvision is needed by timm alone, and must not be found by transformers, which would load its binary.

    Raises:
        CalledProcessError: a package cannot be installed.
    """
    packages, vision = folder / "packages", folder / "vision"
    if not (folder / "ready").exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
        subprocess.run([*pip, str(packages), "-r", str(HERE / "zoo_requirements.txt")], check=True)
        subprocess.run([*pip, str(vision), "torchvision==0.29.1"], check=True)
        (folder / "ready").touch()
    sys.path[1:1] = [str(packages)]
    paths = [str(HERE.parent), str(HERE), str(packages)]
    os.environ.update(PYTHONPATH=os.pathsep.join(paths), ZOO_VISION=str(vision), PYTHONWARNINGS="ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for each other take the time of others' work


def names() -> list[str]:
    """Those of all networks."""
    asked = [sys.executable, "-c", "import zoo_models; print(*zoo_models.names())"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()


def builds(tasks: Sequence[Task], work: Path) -> Iterator[list[Built]]:
    """What became of each: the groups in turn, one network at a time, each group in a process of its own."""

    def lost(task: Task, outcome: str, reason: str) -> list[Built]:
        return [Built(task.name, each, outcome, "", reason, None, None, None, {}) for each in task.precisions]

    def done(task: Task) -> list[Built]:
        from zoo_build import build

        return build(task.name, task.precisions, work)

    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.name.partition("/")[0], []).append(task)
    sweeps = [sweep(Job(group, done, lost, limit=_LIMIT), workers=1) for group in groups.values()]
    for turn in zip_longest(*sweeps):
        yield from (found for found in turn if found is not None)


if __name__ == "__main__":
    sys.exit(main())
