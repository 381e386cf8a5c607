"""Does what people build go through: small networks with random weights, from the module to engines in fp16 and int8.

    python benchmarks/zoo.py FOLDER [--only PATTERN ...] [--precisions fp16 int8] [--every N] [--out RESULT.json]

Networks: families of timm, classes of transformers, and some by hand (``zoo_models.py``). FOLDER takes the packages
they come from (``zoo_requirements.txt``, pinned; 400 MB) and ``results.jsonl``, a line a build: what is there is not
built again. Each build is ``trtpipe build case.py:model`` in a process of its own, with a cache of its own, for sm89;
its lowered graph, Q/DQ pairs computed as written, is then compared with PyTorch on inputs that the build has not seen.

With random weights a network's outputs hardly depend on its inputs, so that int8 may well miss the gate (exit status 3)
and be right to. What has to be: nothing crashes, hangs or ends untyped, what is refused is refused with node or line
and reason, and nothing passes that is far off. The exit status is 1 if it is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks_common import machine_line

from trtpipe.config.toolchain import version

HERE = Path(__file__).resolve().parent
_PACKAGES = ("torch", "onnx", "onnxruntime", "onnxsim", "onnx-ir", "tensorrt-rtx")
#: seconds one build may take
_LIMIT = 600.0
#: decibels of what the input changes, below which a build that passed is far off
_FAR_OFF = 10.0
#: samples to calibrate on, and to compare on
_SAMPLES, _HELD_OUT = 12, 4
_FACTORY = f"""from zoo_models import feeds, load

def model():
    return load({{name!r}})

def calibration():
    return feeds({{name!r}}, seed=1, count={_SAMPLES})
"""
_ENDS = {0: "passed", 2: "refused", 3: "gate failed", 5: "refused", 6: "environment"}


@dataclass(frozen=True)
class Built:
    """What became of one network at one precision.

    Attributes:
        outcome: ``passed``, ``gate failed``, ``refused``, or of what must not be: ``far off``, ``crash``, ``hang``,
            ``environment``.
        stage: the last stage that began.
        message: of the error, its remedy after a line break.
        coverage: share of the multiply-accumulates of Conv and GEMM in 8 bits; ``None`` where there are none.
        cosine, decibels: of the worst output, against PyTorch; decibels of what the inputs change.
        seconds: stage -> wall time; ``total`` -> all of it.
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=["*"], help="shell patterns of names: hf/*, timm/swin*")
    parser.add_argument("--precisions", nargs="+", default=["fp16", "int8"])
    parser.add_argument("--every", type=int, default=1, help="only every N-th")
    parser.add_argument("--out", type=Path, help="the summary as JSON")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    environment = prepared(folder)
    results = folder / "results.jsonl"
    done = {(built.name, built.precision): built for built in read(results)}
    wanted = [
        (name, precision)
        for name in names(environment)[:: arguments.every]
        if any(fnmatchcase(name, pattern) for pattern in arguments.only)
        for precision in arguments.precisions
    ]
    for count, (name, precision) in enumerate(wanted, start=1):
        if (name, precision) in done:
            continue
        built = build(name, precision, folder / "work", environment)
        done[name, precision] = built
        with results.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(built)) + "\n")
        print(f"{count} of {len(wanted)}: {name} {precision}: {built.outcome}", file=sys.stderr)
    found = [done[key] for key in wanted]
    print(table(found, arguments.precisions))
    if arguments.out:
        arguments.out.write_text(json.dumps(summarize(found), indent=1) + "\n", encoding="utf-8")
    return 1 if any(each.outcome not in ("passed", "gate failed", "refused") for each in found) else 0


def prepared(folder: Path) -> dict[str, str]:
    """The environment of a build, in which the packages can be imported; they are installed if they are not there.

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
    paths = [str(HERE.parent), str(HERE), str(packages)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "ZOO_VISION": str(vision), "PYTHONWARNINGS": "ignore"}


def names(environment: Mapping[str, str]) -> list[str]:
    """Those of all networks."""
    asked = [sys.executable, "-c", "import zoo_models; print(*zoo_models.names())"]
    return subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout.split()


def build(name: str, precision: str, work: Path, environment: Mapping[str, str]) -> Built:
    """Build one, and compare it."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "case.py").write_text(_FACTORY.format(name=name), encoding="utf-8")
    command = [sys.executable, "-m", "trtpipe", "build", "case.py:model", f"--{precision}", "--target", "sm89"]
    command += ["--calib-data", "case.py:calibration", "--backend", "tensorrt-rtx", "-o", "out", "--json"]
    own = {**environment, "TRTPIPE_CACHE_DIR": str(work / "cache")}
    begin = time.perf_counter()
    try:
        ended = subprocess.run(
            command, cwd=work, env=own, capture_output=True, text=True, errors="replace", timeout=_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return Built(name, precision, "hang", "", f"no end in {_LIMIT:.0f} s", None, None, None, {})
    seconds = {**_seconds(ended.stdout), "total": round(time.perf_counter() - begin, 1)}
    outcome = _ENDS.get(ended.returncode, "crash")
    bundle = next((work / each for each in ("out", "out.rejected") if (work / each).is_dir()), None)
    coverage = None if bundle is None else _coverage(bundle)
    cosine, decibels = (None, None) if bundle is None else compared(name, bundle, work, own)
    if outcome == "passed" and (decibels is None or decibels < _FAR_OFF):
        outcome = "far off"
    lines = [line for line in ended.stderr.splitlines() if line.startswith(("error:", "  try:"))]
    stages = [line.partition(":")[0] for line in ended.stderr.splitlines() if ": " in line]
    message = "\n".join(lines) if outcome in ("refused", "gate failed", "far off") else ended.stderr[-1500:]
    return Built(
        name, precision, outcome, "" if outcome == "passed" else (stages or [""])[-1],
        "" if outcome == "passed" else message, coverage, cosine, decibels, seconds,
    )  # fmt: skip


def _seconds(document: str) -> dict[str, float]:
    try:
        steps = json.loads(document)["steps"]
        return {step["stage"]: round(step["seconds"], 2) for step in steps if step.get("seconds") is not None}
    except (ValueError, KeyError, TypeError):
        return {}


def _coverage(bundle: Path) -> float | None:
    record = bundle / "lowered.onnx.json"
    work = json.loads(record.read_text(encoding="utf-8")).get("work") if record.exists() else None
    return round(work["eight_bit"] / work["total"], 3) if work and work.get("total") else None


def compared(name: str, bundle: Path, work: Path, environment: Mapping[str, str]) -> tuple[float | None, float | None]:
    """Cosine and decibels of the worst output of the lowered graph against PyTorch, on inputs of a seed of its own."""
    asked = [sys.executable, str(HERE / "zoo_compare.py"), name, str(bundle / "lowered.onnx"), str(_HELD_OUT)]
    ended = subprocess.run(
        asked, cwd=work, env=environment, capture_output=True, text=True, timeout=_LIMIT, check=False
    )
    if ended.returncode:
        return None, None
    cosine, decibels = json.loads(ended.stdout.splitlines()[-1])
    return cosine, decibels


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


if __name__ == "__main__":
    sys.exit(main())
