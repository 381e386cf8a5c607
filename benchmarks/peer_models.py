"""What TensorRT's parser takes, does trtpipe build it? Any folder of ONNX files, each beside what the raw parser says.

    python benchmarks/peer_models.py FOLDER [--precision fp16] [--only PATTERN ...] [--work WORK] [--out RESULT.json]

For Polygraphy's own test models, which the figures in ``results/`` are of: FOLDER is ``tools/Polygraphy/tests/models``
of github.com/NVIDIA/TensorRT.

Each file goes through TensorRT-RTX alone, as ``trtexec`` would hand it over (parsed, then built for sm89; dimensions
that are open are 1), and through ``trtpipe build``, both in processes of their own. Inputs with named dimensions get
``--shapes``, as the user of the model would give them. WORK holds ``results.jsonl``, a line a file: what is there is
not built again.

What the parser takes has to build, to miss a gate by its outputs, or to be refused for a reason in the table "What is
refused" of docs/onnx.md; nothing may crash, hang or end untyped. The exit status is 1 if it is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks_common import machine_line

from trtpipe.config.toolchain import version
from trtpipe.errors import TrtpipeError
from trtpipe.preflight.onnx_io import read_contract

DOCS = Path(__file__).resolve().parents[1] / "docs" / "onnx.md"
_PACKAGES = ("onnx", "onnxruntime", "onnxsim", "onnx-ir", "tensorrt-rtx")
#: seconds that one build may take
_LIMIT = 600.0
#: of a dimension with a name
_LENGTH = 8
_ENDS = {0: "builds", 2: "refused", 3: "gate failed", 5: "refused", 6: "environment"}
#: TensorRT-RTX alone; the last line is the verdict.
_RAW = """
import sys, tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(sys.argv[1]):
    why = parser.get_error(parser.num_errors - 1).desc() if parser.num_errors else "no reason given"
    print("refuses:", " ".join(why.split()))
    raise SystemExit
print("takes:")
config, profile = builder.create_builder_config(), builder.create_optimization_profile()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM89, 0)
for index in range(network.num_inputs):
    tensor = network.get_input(index)
    if -1 in tuple(tensor.shape):
        shape = [1 if dim == -1 else dim for dim in tensor.shape]
        profile.set_shape(tensor.name, shape, shape, shape)
config.add_optimization_profile(profile)
print("builds:" if builder.build_serialized_network(network, config) else "fails:")
"""


@dataclass(frozen=True)
class Peer:
    """What became of one file.

    Attributes:
        parser: ``takes``, ``refuses``, or ``crash``; and why.
        builder: of what the parser takes: ``builds``, ``fails`` or ``crash``.
        outcome: of ``trtpipe build``: ``builds``, ``gate failed``, ``refused``, ``crash``, ``hang``, ``environment``.
        message: of its error.
        listed: the reason in docs/onnx.md that the message is; empty for none.
    """

    name: str
    precision: str
    parser: str
    parser_message: str
    builder: str
    outcome: str
    message: str
    listed: str
    seconds: float

    @property
    def wrong(self) -> bool:
        """Whether it must not be so."""
        if self.outcome in ("builds", "gate failed"):
            return False
        return self.outcome != "refused" or (self.parser == "takes" and not self.listed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--only", nargs="+", default=["*"], help="shell patterns of names")
    parser.add_argument("--work", type=Path, default=Path("peer_models"))
    parser.add_argument("--out", type=Path, help="the summary as JSON")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    results, reasons = work / "results.jsonl", listed_reasons(DOCS.read_text(encoding="utf-8"))
    done = {(peer.name, peer.precision): peer for peer in read(results)}
    files = sorted(arguments.folder.resolve().rglob("*.onnx"))
    wanted = [(str(path.relative_to(arguments.folder.resolve())), path) for path in files]
    wanted = [each for each in wanted if any(fnmatchcase(each[0], pattern) for pattern in arguments.only)]
    for count, (name, path) in enumerate(wanted, start=1):
        if (name, arguments.precision) in done:
            continue
        peer = compared(name, path, arguments.precision, work / "build", reasons)
        done[name, arguments.precision] = peer
        with results.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(peer)) + "\n")
        print(f"{count} of {len(wanted)}: {name}: parser {peer.parser}, trtpipe {peer.outcome}", file=sys.stderr)
    found = [done[name, arguments.precision] for name, _ in wanted]
    print(table(found))
    if arguments.out:
        arguments.out.write_text(json.dumps(summarize(found), indent=1) + "\n", encoding="utf-8")
    return 1 if any(peer.wrong for peer in found) else 0


def compared(name: str, path: Path, precision: str, work: Path, reasons: Sequence[str]) -> Peer:
    """One file through both."""
    begin = time.perf_counter()
    parser, parser_message, builder = raw(path)
    outcome, message = built(path, precision, work)
    listed = next((reason for reason in reasons if reason in message), "")
    seconds = round(time.perf_counter() - begin, 1)
    return Peer(name, precision, parser, parser_message, builder, outcome, message, listed, seconds)


def raw(path: Path) -> tuple[str, str, str]:
    """What TensorRT-RTX's parser says and why, and its builder."""
    ended = subprocess.run(
        [sys.executable, "-c", _RAW, str(path)], capture_output=True, text=True, errors="replace", check=False
    )
    lines = [line for line in ended.stdout.splitlines() if line.startswith(("takes:", "refuses:", "builds:", "fails:"))]
    parser, _, why = (lines or ["crash:"])[0].partition(":")
    builder = lines[1].partition(":")[0] if len(lines) > 1 else "crash" if parser == "takes" else ""
    return parser, why.strip(), builder


def built(path: Path, precision: str, work: Path) -> tuple[str, str]:
    """How ``trtpipe build`` ends, and its error."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    command = [sys.executable, "-m", "trtpipe", "build", str(path), f"--{precision}", "--target", "sm89"]
    command += ["--backend", "tensorrt-rtx", "-o", "out", *shapes(path)]
    if precision not in ("fp32", "fp16", "bf16"):
        command.append("--allow-random-calibration")
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "TRTPIPE_CACHE_DIR": str(work / "cache")}
    try:
        ended = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, errors="replace", timeout=_LIMIT,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "hang", f"no end in {_LIMIT:.0f} s"
    outcome = _ENDS.get(ended.returncode, "crash")
    lines = [*ended.stderr.splitlines(), *ended.stdout.splitlines()]
    errors = [line for line in lines if line.startswith(("error:", "  try:", "FAILED"))]
    message = "" if outcome == "builds" else "\n".join(errors or lines[-5:])
    return outcome, message.replace(f"{path.parent}/", "")


def shapes(path: Path) -> list[str]:
    """``--shapes`` for every input with a dimension that has a name."""
    try:
        inputs = read_contract(path).inputs
    except TrtpipeError:
        return []
    named = [spec for spec in inputs if spec.shape and any(isinstance(dim, str) for dim in spec.shape)]
    texts = [
        f"{spec.name}:" + "x".join(str(_LENGTH if isinstance(dim, str) else dim or 1) for dim in spec.shape or ())
        for spec in named
    ]
    return [part for text in texts for part in ("--shapes", text)]


def listed_reasons(page: str) -> list[str]:
    """What messages say of the refusals that the docs list: the words between backticks in the table's first column."""
    section = page.partition("## What is refused")[2].partition("\n## ")[0]
    cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("|")]
    return [reason for cell in cells for reason in re.findall(r"`([^`]+)`", cell)]


def read(path: Path) -> list[Peer]:
    """What an earlier run found."""
    if not path.exists():
        return []
    return [Peer(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def summarize(found: Sequence[Peer]) -> dict[str, object]:
    """Counts, and a row a file."""
    taken = [peer for peer in found if peer.parser == "takes"]
    return {
        "machine": machine_line(),
        "packages": {name: version(name) for name in _PACKAGES},
        "files": len(found),
        "the parser takes": len(taken),
        "of these trtpipe": dict(Counter(peer.outcome for peer in taken)),
        "of the others trtpipe": dict(Counter(peer.outcome for peer in found if peer.parser != "takes")),
        "peers": [asdict(peer) for peer in found],
    }


def table(found: Sequence[Peer]) -> str:
    """A row a file."""
    rows = ["| file | parser | its builder | trtpipe | why |", "|---|---|---|---|---|"]
    for peer in found:
        why = peer.listed or peer.message.partition("\n")[0].removeprefix("error: ")
        mark = " (!)" if peer.wrong else ""
        rows.append(
            f"| {peer.name} | {peer.parser} | {peer.builder} | {peer.outcome}{mark} | {why.replace('|', '/')} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
