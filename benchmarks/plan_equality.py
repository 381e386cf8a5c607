"""Whether TensorRT-RTX makes the same plan of two models that compute different things.

    python benchmarks/plan_equality.py [OPERATOR ...] [--most N] [--workers N] [--raw] [--out SUMMARY.json]

An importer that drops an attribute in silence, or takes one operator for another, shows here: a pair of models differs
in one attribute and, by ONNX Runtime or ONNX's reference, in its results, and yet both become one plan, byte for byte.
The models are ONNX's own node tests; each goes through export, simplify and lower in float32, and what is lowered is
built twice. Where two builds of one graph differ, plans say nothing of the pair: it is listed as undecided. ``--raw``
asks of the models as they are, which is what the importer makes of them without trtpipe.

Run it with every new release of TensorRT. The exit status is 1 if two models share a plan, or a worker crashed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import onnx
from benchmarks_common import machine_line
from conformance_cases import Case, collect
from conformance_run import Refused, lowered_graph
from plan_equality_pairs import Computed, Group, Variant, computed, grouped, variants
from process_pool import Job, sweep

from trtpipe.config.toolchain import version

_PACKAGES = ("onnx", "onnxruntime", "onnxsim", "onnx-ir", "tensorrt-rtx")
_FAILURES = ("same plan", "crash", "hang")
#: other values of one attribute of one model
_MOST_VALUES = 3


#: digests of two builds, or why there is none
_Plans: TypeAlias = tuple[str, str] | str


@dataclass(frozen=True)
class Verdict:
    """What became of one pair.

    Attributes:
        outcome: ``differ``, ``same plan``, ``refused`` (one of the two is not built), ``undecided`` (two builds of one
            graph differ), ``crash`` or ``hang``.
        reason: of a refusal, or of a crash.
    """

    test: str
    operator: str
    attribute: str
    values: tuple[str, str]
    outcome: str
    reason: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*", help="only these")
    parser.add_argument("--most", type=int, default=4, help="models of each operator and attribute that are varied")
    parser.add_argument("--every", type=int, default=1, help="only every N-th of what is varied")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--raw", action="store_true", help="the models as they are, without lowering")
    parser.add_argument("--out", type=Path, help="the summary as JSON")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    groups = find_groups(variants(collect(), arguments.most), arguments.workers)
    groups = [group for group in groups if not arguments.operators or group.operator in arguments.operators]
    job = Job(groups[:: arguments.every], partial(judge, raw=arguments.raw), _lost)
    verdicts = [verdict for found in sweep(job, arguments.workers) for verdict in found]
    seconds = time.perf_counter() - begin
    print(table(verdicts))
    for verdict in verdicts:
        if verdict.outcome in ("undecided", *_FAILURES):
            print(verdict.outcome, verdict.operator, verdict.attribute, *verdict.values, verdict.test, verdict.reason)
    if arguments.out:
        arguments.out.write_text(json.dumps(summarize(verdicts, seconds), indent=1) + "\n", encoding="utf-8")
    return 1 if any(verdict.outcome in _FAILURES for verdict in verdicts) else 0


def find_groups(tried: Sequence[Variant], workers: int) -> list[Group]:
    """Models that compute different things. A value that ends its worker is none that the operator admits."""

    def lost(variant: Variant, outcome: str, reason: str) -> tuple[Variant, None]:
        del outcome, reason
        return variant, None

    def work(variant: Variant) -> tuple[Variant, Computed | None]:
        return variant, computed(variant)

    found = sweep(Job(tried, work, lost), workers)
    return grouped([(variant, made) for variant, made in found if made is not None], _MOST_VALUES)


def judge(group: Group, *, raw: bool) -> list[Verdict]:
    """All pairs of a group (in a worker)."""
    plans = {member.value: _built(member.model, group, raw=raw) for member in group.members}
    return [
        _judge(group, (one.value, other.value), plans[one.value], plans[other.value]) for one, other in group.pairs()
    ]


def _judge(group: Group, values: tuple[str, str], first: _Plans, second: _Plans) -> Verdict:
    verdict = partial(Verdict, group.test, group.operator, group.attribute, values)
    if isinstance(first, str) or isinstance(second, str):
        return verdict("refused", first if isinstance(first, str) else str(second))
    if first[0] != first[1] or second[0] != second[1]:
        return verdict("undecided")
    return verdict("same plan" if first[0] == second[0] else "differ")


def _built(model: onnx.ModelProto, group: Group, *, raw: bool) -> _Plans:
    """The digests of two plans of one model, or why there is none."""
    if not raw:
        case = Case(group.test, model, group.feed, {}, (group.operator,), random=False)
        with tempfile.TemporaryDirectory() as folder:
            try:
                model = onnx.load(lowered_graph(case, "fp32", Path(folder)))
            except Refused as refused:
                return f"{refused.stage}: {str(refused.error)[:200]}"
    first = plan_digest(model)
    if first.startswith("refused"):
        return first
    return first, plan_digest(model)


def plan_digest(model: onnx.ModelProto) -> str:
    """The sha256 of a strongly typed plan for sm89, or ``refused`` and why."""
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        return "refused: " + " ".join(parser.get_error(0).desc().split())[:200]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    plan = builder.build_serialized_network(network, config)
    return "refused: no engine" if plan is None else hashlib.sha256(bytes(plan)).hexdigest()


def _lost(group: Group, outcome: str, reason: str) -> list[Verdict]:
    """A worker ended while it built one of a group."""
    values = (group.members[0].value, "any other")
    return [Verdict(group.test, group.operator, group.attribute, values, outcome, reason)]


def summarize(verdicts: Sequence[Verdict], seconds: float) -> dict[str, Any]:
    """Counts, and every pair that is neither apart nor refused."""
    return {
        "machine": machine_line(),
        "packages": {name: version(name) for name in _PACKAGES},
        "seconds": round(seconds),
        "pairs": len(verdicts),
        "operators": len({verdict.operator for verdict in verdicts}),
        "attributes": len({(verdict.operator, verdict.attribute) for verdict in verdicts}),
        "counts": dict(sorted(Counter(verdict.outcome for verdict in verdicts).items())),
        "listed": [vars(verdict) for verdict in verdicts if verdict.outcome in ("undecided", *_FAILURES)],
    }


def table(verdicts: Sequence[Verdict]) -> str:
    """Counts by outcome."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    words = ("differ", "refused", "undecided", *_FAILURES)
    rows = ["| pairs | " + " | ".join(words) + " |", "|---" * (len(words) + 1) + "|"]
    rows.append(f"| {len(verdicts)} | " + " | ".join(str(counts[word]) for word in words) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
