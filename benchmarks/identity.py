"""Whether two checkouts build the same: every artifact of the demo and of a folder of cases, byte by byte.

    python benchmarks/identity.py OLD NEW [--cases CASES] [--only NAME ...] [--precisions fp16 int8 best]
                                  [--spread 5] [--renamed OLD=NEW,...] [--ignored FIELD,...] [--all]
    python benchmarks/identity.py --record CHECKOUT FOLDER [--cases CASES] [--only ...] [--precisions ...] [--spread 5]

For a refactoring, which must not change what is built. OLD and NEW are checkouts, or folders that ``--record`` wrote
before; where OLD is such a folder, NEW builds what it holds. CASES is a folder of folders, each with a ``case.py``, as
``accuracy.py`` has them (default: ``TRTPIPE_TEST_CASES``); ``CONSTANTS`` in it are inputs that the profile fixes.
``--only`` names cases, variants (``NAME:VARIANT``), or ``demo``, the digits example, which is always built in int8.
Each build is a child process in its checkout, for one target, with a cache of its own; it leaves the bundle, the JSON
document of its standard output, its log, and in ``build.json`` the seconds that it and its children took.

Files with the same bytes are identical. ONNX graphs, and files of unknown kinds, have to be. JSON, and arrays in an
``.npz``, are compared field by field, and are equal if nothing differs but what may differ:

* IGNORED in ``identity_comparison.py``: keys, schema numbers, times, the machine, and digests and sizes that follow
  from those.
* TEXT there: sentences for people. They are listed as reworded. The reason of a node must be reworded alike everywhere:
  two nodes with one reason before have one reason after, numbers and quoted names aside.
* Names, where RENAMED there or ``--renamed`` says so: of fields, files, and of strings that are nothing but the name.
  ``a.b=c`` renames ``b`` in ``a`` only. ``--ignored`` names fields that were added or removed, or changed otherwise.
* Engines, which no two builds make alike. What is known of the new engine (layers, tensors, formats, memory; not
  tactics, nor the numbers in the builder's own names) has to be equal to one of the old engines: that of the bundle,
  or those of ``--spread N``, which compiles the old lowered graph N times more. The size of the plan has to be within
  what they span, and a thousandth.

The exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from identity_comparison import RENAMED, Comparison, Difference, onnx_differences

DEMO = "demo"
TARGET = "sm89"
#: One engine, and no time spent on latency, which is not the point here.
_ENGINE = ("--target", TARGET, "--backend", "tensorrt-rtx")
_BRIEF = ("--warmup", "1ms", "--duration", "10ms")
_DEMO_PROFILE = ("--profile", "profiles/digits.toml")
_DEMO_WORDS = (
    "examples/digits/model.py:digits_cnn", "--int8", *_DEMO_PROFILE, "--calib", "calib/digits.toml",
)  # fmt: skip
_PRECISIONS = ("fp16", "int8", "best")
_MOST_SHOWN = 6


@dataclass(frozen=True)
class Build:
    """One build of one case at one precision, and where its files are."""

    folder: Path

    @property
    def bundle(self) -> Path:
        """What was published, or what failed a gate."""
        published = self.folder / "bundle"
        return published if published.is_dir() else published.with_name("bundle.rejected")

    @property
    def about(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "build.json").read_text())
        return found

    def files(self) -> dict[str, Path]:
        """All that is compared, by name: the bundle's files and the JSON document."""
        found = {path.relative_to(self.bundle).as_posix(): path for path in self.bundle.rglob("*") if path.is_file()}
        return dict(sorted(found.items())) | {"document.json": self.folder / "document.json"}

    def engines(self, name: str) -> list[Path]:
        """The file of this name in the bundle and beside each engine built again."""
        return [path for path in (self.bundle / name, *sorted(self.folder.glob(f"spread/*/{name}"))) if path.is_file()]


@dataclass(frozen=True)
class Outcome:
    """What became of one artifact: ``identical`` bytes, ``equal`` but for what may differ, or what differs."""

    differences: tuple[Difference, ...] = ()
    same_bytes: bool = False

    @property
    def word(self) -> str:
        if self.differences:
            return "DIFFERS"
        return "identical" if self.same_bytes else "equal"


def compare_builds(old: Build, new: Build, comparison: Comparison) -> dict[str, Outcome]:
    """What became of each artifact, by its new name."""
    mine, theirs = old.files(), new.files()
    found: dict[str, Outcome] = {}
    statuses = [str(build.about["exit_code"]) for build in (old, new)]
    if statuses[0] != statuses[1]:
        found["exit status"] = Outcome((Difference("build.json:exit_code", *statuses),))
    names = {comparison.renamed_file(name): name for name in mine}
    for name in dict.fromkeys((*names, *theirs)):
        was = names.get(name, "")
        if was in mine and name in theirs:
            before, after = mine[was].read_bytes(), theirs[name].read_bytes()
            differences = [] if before == after else _differences(was, before, after, old.engines(was), comparison)
            found[name] = Outcome(tuple(differences), before == after)
        else:
            there = ["there" if each else "absent" for each in (was in mine, name in theirs)]
            found[name] = Outcome((Difference(name, *there),))
    return found


def _differences(
    name: str, before: bytes, after: bytes, engines: list[Path], comparison: Comparison
) -> list[Difference]:
    """Between two files with other bytes."""
    if name.endswith(".plan"):
        sizes = [path.stat().st_size for path in engines]
        margin = max(sizes) // 1000
        within = min(sizes) - margin <= len(after) <= max(sizes) + margin
        return [] if within else [Difference(f"{name}: bytes", f"{min(sizes)} to {max(sizes)}", str(len(after)))]
    if name.endswith(".plan.json"):
        return comparison.engine(name, [json.loads(path.read_bytes()) for path in engines], json.loads(after))
    if name.endswith(".json") and before and after:  # the output of a crash is empty
        return comparison.json(name, json.loads(before), json.loads(after))
    if name.endswith(".npz"):
        return comparison.npz(name, before, after)
    if name.endswith(".onnx"):
        return onnx_differences(name, before, after)
    return [Difference(name, f"{len(before)} bytes", f"{len(after)} other bytes")]


@dataclass(frozen=True)
class Wanted:
    """A build to make: ``words`` follow ``trtpipe build``, ``shapes`` follow ``trtpipe compile`` too."""

    case: str
    precision: str
    words: tuple[str, ...]
    shapes: tuple[str, ...]

    @property
    def folder(self) -> str:
        return f"{self.case.replace(':', '-')}/{self.precision}"


def wanted(cases: Path | None, only: list[str] | None, precisions: Iterable[str]) -> Iterator[Wanted]:
    """The builds of the demo and of the cases named, or of all."""
    if only is None or DEMO in only:
        yield Wanted(DEMO, "int8", _DEMO_WORDS, _DEMO_PROFILE)
    names = [name for name in only if name != DEMO] if only is not None else []
    if only is None and cases is not None:
        names = sorted(path.parent.name for path in cases.glob("*/case.py"))
    if names and cases is None:
        raise SystemExit("name the folder of cases with --cases or TRTPIPE_TEST_CASES")
    for name in names:
        assert cases is not None
        base, _, variant = name.partition(":")
        source = (cases / base / "case.py").resolve()
        module = module_at(source)
        model = str(module.MODELS[variant] if variant else module.MODEL)
        shapes = shape_words(module)
        for precision in precisions:
            words = (model, f"--{precision}", "--calib-data", f"{source}:calibration", *shapes)
            yield Wanted(name, precision, words, shapes)


def module_at(source: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"case_{source.parent.name}", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shape_words(case: ModuleType) -> tuple[str, ...]:
    """A case's ranges of shapes as options; inputs with one value have it in the place of sizes."""
    profiles: Mapping[str, Mapping[str, Iterable[int]]] = case.PROFILES
    constants: Mapping[str, np.ndarray] = getattr(case, "CONSTANTS", {}) if profiles else {}
    bounds: dict[str, list[str]] = {}
    for name, shapes in profiles.items():
        for bound, dims in shapes.items():
            bounds.setdefault(bound, []).append(f"{name}:{'x'.join(map(str, dims))}")
    for each in bounds.values():
        each += [f"{name}:{'x'.join(map(str, value.reshape(-1).tolist()))}" for name, value in constants.items()]
    return tuple(word for bound, each in bounds.items() for word in (f"--{bound}-shapes", ",".join(each)))


def record(checkout: Path, folder: Path, wishes: Iterable[Wanted], spread: int) -> None:
    """Build what is wanted with the code of a checkout, and keep it."""
    for wish in wishes:
        place = folder.resolve() / wish.folder
        if (place / "build.json").is_file():  # of an earlier recording
            shutil.rmtree(place)
        place.mkdir(parents=True, exist_ok=True)
        words = ("build", *wish.words, *_ENGINE, *_BRIEF, "-o", str(place / "bundle"), "--json")
        about = {"case": wish.case, "precision": wish.precision, **_child(checkout, words, place)}
        (place / "build.json").write_text(json.dumps(about, indent=2) + "\n")
        print(
            f"{wish.case:24} {wish.precision:5} exit {about['exit_code']}, {about['cpu_seconds']:.1f} s of CPU",
            flush=True,
        )
        lowered = Build(place).bundle / "lowered.onnx"
        for number in range(spread if lowered.is_file() else 0):
            again = place / "spread" / str(number)
            again.mkdir(parents=True, exist_ok=True)
            words = ("compile", str(lowered), *wish.shapes, *_ENGINE, "-o", str(again), "--json")
            done = _child(checkout, words, again)
            if done["exit_code"] != 0:
                raise SystemExit(f"{wish.folder}: the engine was built once and not again: {again / 'log.txt'}")
            for path in again.glob("*.plan"):  # what counts is the size; no disk holds it
                size = path.stat().st_size
                os.truncate(path, 0)
                os.truncate(path, size)


def _child(checkout: Path, words: tuple[str, ...], place: Path) -> dict[str, Any]:
    """Run trtpipe of a checkout: exit status, and the seconds that it and the children it waited for took."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRTPIPE_")}
    environment["PYTHONPATH"] = str(checkout.resolve())
    with (
        tempfile.TemporaryDirectory() as cache,
        (place / "document.json").open("wb") as out,
        (place / "log.txt").open("wb") as log,
    ):
        line = [sys.executable, "-m", "trtpipe", *words, "--cache-dir", cache]
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(line, cwd=checkout, env=environment, stdout=out, stderr=log, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "exit_code": done.returncode,
        "cpu_seconds": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime,
        "wall_seconds": time.monotonic() - begin,
    }


def recorded(folder: Path) -> dict[str, Build]:
    """The builds in a folder, by their place in it."""
    found = sorted(folder.glob("*/*/build.json"))
    return {path.parent.relative_to(folder).as_posix(): Build(path.parent) for path in found}


def is_checkout(path: Path) -> bool:
    return (path / "pyproject.toml").is_file()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD", help="a checkout, or a folder that was recorded")
    parser.add_argument("new", type=Path, metavar="NEW", help="the same; with --record the folder to write")
    parser.add_argument("--record", action="store_true", help="build with the first, write into the second")
    parser.add_argument("--cases", type=Path, default=os.environ.get("TRTPIPE_TEST_CASES"))
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--precisions", nargs="+")
    parser.add_argument("--spread", type=int, default=0, help="how many times to build each old engine again")
    parser.add_argument("--renamed", default="", help="more names that changed: OLD=NEW,...")
    parser.add_argument("--ignored", default="", help="names of fields that may differ anywhere")
    parser.add_argument("--all", action="store_true", help="show every difference, not the first of each artifact")
    arguments = parser.parse_args()
    wishes = wanted(arguments.cases, arguments.only, arguments.precisions or _PRECISIONS)
    if arguments.record:
        record(arguments.old, arguments.new, wishes, arguments.spread)
        return 0
    pairs = [each.partition("=") for each in arguments.renamed.split(",") if each]
    comparison = Comparison(
        {**RENAMED, **{old: new for old, _, new in pairs}}, frozenset(arguments.ignored.split(",")) - {""}
    )
    with tempfile.TemporaryDirectory() as work:
        old, new = arguments.old, arguments.new
        if is_checkout(old):
            old = Path(work, "old")
            record(arguments.old, old, wishes, arguments.spread)
        builds = {place: build for place, build in recorded(old).items() if _is_wanted(build, arguments)}
        if is_checkout(new):
            new = Path(work, "new")
            for build in builds.values():
                again = wanted(arguments.cases, [build.about["case"]], [build.about["precision"]])
                record(arguments.new, new, again, 0)
        return report(builds, recorded(new), comparison, None if arguments.all else _MOST_SHOWN)


def _is_wanted(build: Build, arguments: argparse.Namespace) -> bool:
    case, precision = build.about["case"], build.about["precision"]
    if arguments.only is not None and case not in arguments.only:
        return False
    return arguments.precisions is None or precision in arguments.precisions or case == DEMO


def report(old: Mapping[str, Build], new: Mapping[str, Build], comparison: Comparison, most: int | None) -> int:
    """Print a line for each artifact and what differs in it; the exit status."""
    count: Counter[str] = Counter()
    seconds = [0.0, 0.0]
    for place, build in old.items():
        title = f"{build.about['case']:24} {build.about['precision']:5}"
        if place not in new:
            print(f"{title} {'':28} DIFFERS: was not built")
            count["DIFFERS"] += 1
            continue
        seconds = [sum(pair) for pair in zip(seconds, map(_seconds, (build, new[place])), strict=True)]
        for artifact, outcome in compare_builds(build, new[place], comparison).items():
            count[outcome.word] += 1
            print(f"{title} {artifact:28} {outcome.word}")
            for each in outcome.differences[:most]:
                print(f"    {each.path}\n        old: {each.old}\n        new: {each.new}")
            if most is not None and len(outcome.differences) > most:
                print(f"    and {len(outcome.differences) - most} more: --all shows them")
    for sentence, now in sorted(comparison.reworded.items()):
        print(f"reworded: {sentence}\n      to: {now}")
    counts = ", ".join(f"{count[word]} {word}" for word in ("identical", "equal", "DIFFERS"))
    print(f"{len(old)} builds, {count.total()} artifacts: {counts}")
    print(f"CPU seconds of these builds, once each: {seconds[0]:.0f} before, {seconds[1]:.0f} after")
    return 1 if count["DIFFERS"] or not old else 0


def _seconds(build: Build) -> float:
    return float(build.about["cpu_seconds"])


if __name__ == "__main__":
    sys.exit(main())
