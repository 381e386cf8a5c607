"""What the builds of ``zoo.py`` became: a line a build on disk, and the table made of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks_common import machine_line

from trtpipe.config.toolchain import version

_PACKAGES = ("torch", "onnx", "onnxruntime", "onnxsim", "onnx-ir", "tensorrt-rtx")


@dataclass(frozen=True)
class Built:
    """What became of one network at one precision.

    Attributes:
        outcome: ``passed``, ``gate failed``, ``refused``, or of what must not be: ``far off``, ``crash``, ``hang``,
            ``environment``.
        stage: the last stage that began.
        message: of the error, its remedy after a line break; or what the gate says.
        coverage: share of the multiply-accumulates of Conv and GEMM in 8 bits; ``None`` where there are none.
        cosine, decibels: of the worst output, against PyTorch; decibels of what the inputs change.
        seconds: stage -> wall time; ``total`` -> all of it. The second precision takes stages from the first's cache.
    """

    name: str
    precision: str
    outcome: str
    stage: str
    message: str
    coverage: float | None
    cosine: float | None
    decibels: float | None
    seconds: dict[str, float]


def read(path: Path) -> list[Built]:
    """What an earlier run found."""
    if not path.exists():
        return []
    return [Built(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def summarize(found: Sequence[Built]) -> dict[str, object]:
    """Counts, and a row a build."""
    return {
        "machine": machine_line(),
        "packages": {name: version(name) for name in _PACKAGES},
        "counts": {
            precision: dict(Counter(each.outcome for each in found if each.precision == precision))
            for precision in sorted({each.precision for each in found})
        },
        "builds": [asdict(each) for each in found],
    }


def table(found: Sequence[Built], precisions: Sequence[str]) -> str:
    """One row a precision."""
    words = ("passed", "gate failed", "refused", "far off", "crash", "hang", "environment")
    rows = ["| precision | networks | " + " | ".join(words) + " |", "|---" * (len(words) + 2) + "|"]
    for precision in precisions:
        own = Counter(each.outcome for each in found if each.precision == precision)
        rows.append(f"| {precision} | {own.total()} | " + " | ".join(str(own[word]) for word in words) + " |")
    return "\n".join(rows)
