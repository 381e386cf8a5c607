"""Run as a script: mutated models through the real pipeline's own functions; prints one JSON document.

    python tests/fuzz/driver.py COUNT [SEED]

Mutant ``n`` of a seed is always the same, so what is reported is its number; no file is kept. The driver does what the
parent of a build does (the pre-flight); what passes goes to a child forked from it, which does what the children of a
build do (check, run, simplify, lower, parse with TensorRT-RTX) and ends as it ends. Forking instead of starting Python
anew makes it some fifty mutants a second.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from trtpipe.config.formats import FP16  # noqa: E402
from trtpipe.isolation.imports import no_telemetry  # noqa: E402  the path comes first

no_telemetry()

import onnx  # noqa: E402
import onnxsim  # noqa: E402, F401
from fuzz.mutate import mutant  # noqa: E402
from models import CASES  # noqa: E402  brings onnxruntime: loaded once, not in every child

from trtpipe.autocast.convert import CastPrecision  # noqa: E402
from trtpipe.config.stage_settings import ExportStageSettings  # noqa: E402
from trtpipe.errors import InputError, TrtpipeError  # noqa: E402
from trtpipe.exporter.onnx_import import copy_checked  # noqa: E402
from trtpipe.exporter.request import OnnxRequest, SimplifyRequest  # noqa: E402
from trtpipe.exporter.simplification import simplify  # noqa: E402
from trtpipe.passes.clean_up import clean_up  # noqa: E402
from trtpipe.passes.graph_pass import run_passes  # noqa: E402
from trtpipe.preflight import seal_model  # noqa: E402
from trtpipe.preflight.onnx_io import contract_of_proto, load_model, save_model  # noqa: E402

try:
    import tensorrt_rtx as trt
except ImportError:
    trt = None

SECONDS, MEMORY = 10, 8 << 30
#: Exit statuses of a child: a refusal in good order, and a bug of ours.
REFUSED, BUG = 3, 4
MEMORY_DISK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def silent(phase: str, done: int, total: int | None) -> None:
    """A report nobody reads."""


def native(sealed: Path, work: Path) -> str:
    """What the children of a build do with a model; the last step done."""
    copy_checked(
        OnnxRequest(source=str(sealed), workdir=str(work), label="mutant.onnx", settings=ExportStageSettings()), silent
    )
    model = work / "model.onnx"
    contract = contract_of_proto(onnx.load(model))
    shapes = {
        spec.name: tuple(dim if isinstance(dim, int) else 2 for dim in spec.shape or ()) for spec in contract.inputs
    }
    request = SimplifyRequest(model=str(model), workdir=str(work), onnxsim=True, opset=19, feeds="", shapes=shapes)
    try:
        simplify(request, silent)
    except TrtpipeError:
        simplify(request.model_copy(update={"onnxsim": False}), silent)
    lowered = load_model(work / "simplified.onnx")
    clean_up(lowered)
    run_passes(lowered, [CastPrecision(FP16, ())])
    save_model(lowered, work / "lowered.onnx")
    if trt is None:
        return "lowered"
    return "parsed" if parse(work / "lowered.onnx") else "not parsed"


def parse(path: Path) -> bool:
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    return bool(trt.OnnxParser(network, logger).parse_from_file(str(path)))


def child(sealed: Path, work: Path, words: int) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.dup2(words, 1)
    os.dup2(words, 2)
    try:
        step = native(sealed, work)
    except TrtpipeError as error:
        os.write(words, f"\n{type(error).__name__}: {error.message}".encode(errors="replace"))
        return REFUSED
    except MemoryError:
        return REFUSED
    except BaseException as error:  # noqa: BLE001  a bug of ours is what this looks for
        import traceback

        os.write(words, "".join(traceback.format_exception(error))[-2000:].encode(errors="replace"))
        return BUG
    os.write(words, f"\n{step}".encode())
    return 0


def run(number: int, seed: int, folder: Path, bases: list[bytes]) -> tuple[str, str]:
    """How mutant ``number`` ended, and its last words."""
    path, work, words = folder / "mutant.onnx", folder / "work", folder / "words"
    path.write_bytes(mutant(bases, random.Random(f"{seed}:{number}")))
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        sealed = seal_model(path, work / "sealed")
    except InputError as error:
        return "refused by the pre-flight", error.message
    handle = os.open(words, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    pid = os.fork()
    if not pid:
        os._exit(child(sealed, work, handle))
    status = ended(pid)
    said = words.read_text(errors="replace").strip()
    os.close(handle)
    if status is None:
        return "stopped at the time limit", said
    if status < 0:
        return f"child died of {signal.Signals(-status).name}", said
    return {0: said.splitlines()[-1] if said else "", REFUSED: "refused by a child", BUG: "bug"}[status], said


def ended(pid: int) -> int | None:
    deadline = time.monotonic() + SECONDS
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.002)


def fuzz(numbers: range, seed: int, result: Path) -> None:
    """Run some mutants, one after the other, and write down how they ended."""
    bases = [case().SerializeToString() for case in CASES.values()]
    endings: Counter[str] = Counter()
    told: list[dict[str, Any]] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        for number in numbers:
            begin = time.monotonic()
            ending, said = run(number, seed, Path(folder), bases)
            slowest = max(slowest, time.monotonic() - begin)
            endings[ending] += 1
            if ending.startswith(("bug", "child died", "stopped")):
                told.append({"number": number, "ending": ending, "said": said[-700:]})
    result.write_text(json.dumps({"endings": endings, "told": told, "slowest": slowest}))


def fuzz_on_all_cores(count: int, seed: int) -> dict[str, Any]:
    started, cores = time.monotonic(), os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(core)) for core in range(cores)]
        pids = []
        for core, file in enumerate(files):
            pid = os.fork()
            if not pid:
                try:
                    fuzz(range(core, count, cores), seed, file)
                finally:
                    os._exit(0)
            pids.append(pid)
        drivers = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        found = [json.loads(file.read_text()) for file in files]
    return {
        "count": count,
        "seed": seed,
        "drivers": drivers,
        "seconds": round(time.monotonic() - started, 1),
        "slowest": round(max(one["slowest"] for one in found), 2),
        "endings": dict(sum((Counter(one["endings"]) for one in found), Counter()).most_common()),
        "told": [told for one in found for told in one["told"]],
    }


if __name__ == "__main__":
    how_many, which = int(sys.argv[1]), int((sys.argv[2:3] or ["1"])[0])
    sys.stdout.write(json.dumps(fuzz_on_all_cores(how_many, which), indent=1))
