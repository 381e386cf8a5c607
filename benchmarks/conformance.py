"""ONNX's own node tests through lowering, at each precision, and on to TensorRT-RTX engines.

    python benchmarks/conformance.py [--precision fp16 int8] [--filter PATTERN] [--every N] [--also NAME ...]
                                     [--workers N] [--resume RESULTS.jsonl] [--out SUMMARY.json]

Every test runs export, simplify, observe, calibrate, lower and compile as users run them, and the lowered graph is
compared with the original one. A worker that crashes or hangs costs the one test it was at, which is then judged so.
With ``--resume`` results are appended to a file as they come, and tests in it are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks_common import machine_line
from conformance_cases import Case, collect
from conformance_run import Outcome, run_case
from process_pool import Job, sweep

from trtpipe.config.toolchain import version

_PACKAGES = ("onnx", "onnxruntime", "onnxsim", "onnx-ir", "tensorrt-rtx")
_FAILURES = ("wrong", "crash", "hang", "untyped", "vague")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", default=["fp16", "int8"])
    parser.add_argument("--filter", default="*", help="shell pattern of test names")
    parser.add_argument("--also", nargs="*", default=[], help="names of tests to add to every N-th")
    parser.add_argument("--every", type=int, default=1, help="only every N-th of the tests")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--resume", type=Path, help="JSON lines, one a test and precision")
    parser.add_argument("--out", type=Path, help="the summary as JSON")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    named = [case for case in collect() if fnmatchcase(case.name, arguments.filter)]
    cases = [case for n, case in enumerate(named) if n % arguments.every == 0 or case.name in arguments.also]
    done = list(read_results(arguments.resume))
    known = {(outcome.case, outcome.precision) for outcome in done}
    left = [case for case in cases if any((case.name, precision) not in known for precision in arguments.precision)]
    names = {case.name for case in cases}
    results = [o for o in done if o.case in names and o.precision in arguments.precision]
    job = conformance_job(left, arguments.precision)
    for count, outcomes in enumerate(sweep(job, arguments.workers), start=1):
        fresh = [outcome for outcome in outcomes if (outcome.case, outcome.precision) not in known]
        results += fresh
        if arguments.resume:
            with arguments.resume.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(outcome.to_dict()) + "\n" for outcome in fresh)
        if count % 50 == 0:
            print(f"{count} of {len(left)}, {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    summary = summarize(results, len(cases), time.perf_counter() - begin)
    print(table(results, arguments.precision))
    if arguments.out:
        arguments.out.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return 1 if any(outcome.outcome in _FAILURES for outcome in results) else 0


def conformance_job(cases: Sequence[Case], precisions: Sequence[str]) -> Job[Case, list[Outcome]]:
    """Every test at all precisions; one that ends its worker is judged so at each."""

    def lost(case: Case, outcome: str, reason: str) -> list[Outcome]:
        return [Outcome(case.name, each, outcome, operators=case.operators, reason=reason) for each in precisions]

    return Job(cases, partial(run_case, precisions=precisions), lost)


def read_results(path: Path | None) -> Iterator[Outcome]:
    """What an earlier run found."""
    if path is not None and path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            yield Outcome(**{**entry, "operators": tuple(entry["operators"])})


def summarize(results: Sequence[Outcome], tests: int, seconds: float) -> dict[str, Any]:
    """Counts, and every test that is not right, with its reason."""
    return {
        "machine": machine_line(),
        "packages": {name: version(name) for name in _PACKAGES},
        "seconds": round(seconds),
        "tests": tests,
        "counts": {p: _counts(o for o in results if o.precision == p) for p in sorted({o.precision for o in results})},
        "refused": _reasons(results, lambda outcome: outcome.outcome == "refused"),
        "failures": [outcome.to_dict() for outcome in results if outcome.outcome in _FAILURES],
    }


def _counts(results: Iterable[Outcome]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for outcome in results:
        counts[outcome.outcome] += 1
        counts["built"] += outcome.built
        counts["lowered"] += outcome.lowered > 0
    return dict(sorted(counts.items()))


def _reasons(results: Iterable[Outcome], chosen: Callable[[Outcome], bool]) -> dict[str, dict[str, int]]:
    """Stage -> operators -> how many tests."""
    found: dict[str, Counter[str]] = {}
    for outcome in filter(chosen, results):
        found.setdefault(outcome.stage, Counter())[" ".join(outcome.operators[:4])] += 1
    return {stage: dict(counts.most_common()) for stage, counts in sorted(found.items())}


def table(results: Sequence[Outcome], precisions: Sequence[str]) -> str:
    """One row a precision."""
    words = ("built", "right", "uncompared", "refused", *_FAILURES)
    rows = ["| precision | tests | " + " | ".join(words) + " |", "|---" * (len(words) + 2) + "|"]
    for precision in precisions:
        own = [outcome for outcome in results if outcome.precision == precision]
        counts = _counts(own)
        rows.append(f"| {precision} | {len(own)} | " + " | ".join(str(counts.get(word, 0)) for word in words) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
