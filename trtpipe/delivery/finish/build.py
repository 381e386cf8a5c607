"""Build the engine of a hand-over on this machine, compare it with the reference outputs, and measure it.

This file lies in a hand-over folder that ``trtpipe package make --handover`` wrote. It needs Python 3.8 or newer, numpy
and TensorRT 10.3 or newer, and nothing of trtpipe:

    python3 finish.py

It writes the plan, its record (``<plan>.json``), ``parity.json``, ``latency.json`` and ``finished.json``, the verdict;
``trtpipe inspect`` and ``trtpipe package make`` read them. Exit codes: 0, or 2 (files), 3 (the outputs are not within
tolerance), 5 (cannot be built), 6 (this machine lacks something).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trtpipe.delivery.finish.common import Failed, Feed, Record, reasons, say
from trtpipe.delivery.finish.engine import Cuda, Engine
from trtpipe.delivery.finish.judge import difference, judge_outputs, widened
from trtpipe.reference.feed_archive import read_feed_archive

MODEL, JOB, FINISHED, PARITY, LATENCY = "model.json", "handover.json", "finished.json", "parity.json", "latency.json"
#: The schemas of the files that are read and written.
MODEL_SCHEMA, JOB_SCHEMA, FINISHED_SCHEMA, RECORD_SCHEMA, PARITY_SCHEMA = 2, 1, 2, 2, 4
#: What is read of an input or output.
TENSOR = ("name", "dtype", "shape")
#: The oldest TensorRT that is of use.
LEAST = (10, 3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Everything; returns the exit code."""
    parser = argparse.ArgumentParser(description="Build, check and measure the engine of this hand-over.")
    parser.add_argument("--flavor", choices=["tensorrt", "tensorrt-rtx"], default="tensorrt", help="default: tensorrt")
    parser.add_argument("--build-only", action="store_true", help="neither run nor measure the engine")
    parser.add_argument("--warm-up", type=float, default=0.2, metavar="SECONDS", help="before timing (default 0.2)")
    parser.add_argument("--duration", type=float, default=3.0, metavar="SECONDS", help="of timing (default 3)")
    given = parser.parse_args(arguments)
    try:
        return finish(Path(__file__).resolve().parent, given)
    except Failed as error:
        sys.stderr.write(f"error: {error}\n  try: {error.remedy}\n")
        return error.code


def finish(folder: Path, given: argparse.Namespace) -> int:
    """Build in ``folder``, run and measure where there is a GPU, and write the records."""
    model, job = read_folder(folder)
    if job["repository"] and given.flavor != "tensorrt":
        raise Failed(2, f"Triton loads no plans of {given.flavor}", "leave --flavor out")
    trt = load_tensorrt(given.flavor)
    check_version(trt.__version__, given.flavor, job)
    cuda = None if given.build_only else Cuda.load()
    if cuda is not None:
        check_gpu(cuda, job)
    elif not given.build_only:
        say("no GPU, or no CUDA runtime library (libcudart): the engine will be built, not executed")
    log = new_log(trt)
    say("building {} with {} {}".format(job["plan"], given.flavor, trt.__version__))
    engine = build(trt, log, folder, job, model, given.flavor)
    label = "engine:" + job["target"]
    runner = f"{given.flavor} {trt.__version__}"
    parity, latency = None, None
    if cuda is not None:
        runner += " on " + gpu_name(job)
        opened = Engine(trt, log, cuda, (folder / job["plan"]).read_bytes())
        feeds, wanted = read_reference(folder, model)
        if wanted:
            say(f"comparing {len(feeds)} feeds with the reference outputs")
            found = [opened.run(feed) for feed in feeds]
            parity = judge(model, job, runner, found, wanted, feeds, engine["digests"]["plan"])
        say("measuring")
        shown = feeds[0] if feeds else random_feed(model, job)
        latency = opened.measure(shown, label, runner, given.warm_up, given.duration)
    return write(folder, model, job, engine, parity, latency, runner)


def read_folder(folder: Path) -> tuple[Record, Record]:
    """``model.json`` and ``handover.json``, once every file that they list has the digest they say."""
    model, job = (read_json(folder / name) for name in (MODEL, JOB))
    if model.get("schema") != MODEL_SCHEMA or job.get("schema") != JOB_SCHEMA:
        raise Failed(2, f"{folder / JOB}: written by another version of trtpipe", "make the hand-over again")
    check_fields(model, folder / MODEL)
    for file in model["files"]:
        path, digest = folder / file["name"], hashlib.sha256()
        try:
            with path.open("rb") as stream:
                for chunk in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(chunk)
        except OSError as error:
            raise Failed(2, f"{path}: {error.strerror}", "copy the whole folder again") from error
        if digest.hexdigest() != file["sha256"]:
            raise Failed(2, f"{path}: changed, or cut short: its digest differs", "copy the folder again")
    return model, job


def check_fields(model: Record, path: Path) -> None:
    """Refuse an index that lacks what is read of it here: nothing says its own digest."""
    try:
        for name in ("precision", "ignored", "unordered", "tolerances", "reference"):
            model[name]
        for kind, names in (("files", ("name", "sha256")), ("inputs", TENSOR), ("outputs", TENSOR)):
            for each in model[kind]:
                [each[name] for name in names]
        [part["file"] for part in (model["graph"], model["reference"]) if part is not None]
    except (KeyError, TypeError) as error:
        raise Failed(2, f"{path}: changed: it lacks {error}", "copy the whole folder again") from error


def read_json(path: Path) -> Record:
    """A JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Failed(2, f"{path}: cannot be read: {error}", "copy the whole folder again") from error
    if not isinstance(content, dict):
        raise Failed(2, f"{path}: holds no JSON object", "copy the whole folder again")
    return content


def load_tensorrt(flavor: str) -> Any:
    """The module of a TensorRT flavor."""
    try:
        if flavor == "tensorrt":
            import tensorrt as trt
        else:
            import tensorrt_rtx as trt
    except (ImportError, OSError) as error:
        raise Failed(6, f"{flavor} cannot be imported: {error}", "install its Python package") from error
    return trt


def check_version(version: str, flavor: str, job: Record) -> None:
    """Refuse a version that does not build for the target."""
    number = tuple(int(part) for part in [*re.findall(r"\d+", version), 0, 0, 0][:3])
    if flavor == "tensorrt" and number[:2] < LEAST:
        old = f"TensorRT {version} is installed, as JetPack 5 and older have it; it has no strongly typed networks"
        raise Failed(6, old, "use TensorRT 10.3 or newer: JetPack 6.1 or later on a Jetson")
    since, gap = job["since"], job["gap"]
    known = tuple(since) <= number and not (gap and tuple(gap[0]) <= number < tuple(gap[1]))
    if flavor == "tensorrt" and not known:
        raise Failed(
            6,
            "TensorRT {} builds no such engine for {}: {} do".format(version, job["target"], job["versions"]),
            "install one of these",
        )


def check_gpu(cuda: Cuda, job: Record) -> None:
    """Refuse to build for another GPU than the hand-over is for."""
    here = cuda.capability()
    if here != tuple(job["capability"]):
        raise Failed(
            6,
            "this GPU is sm{}{}, and the hand-over is for {}".format(here[0], here[1], job["target"]),
            "run it on that GPU, or make a hand-over for this one",
        )


def new_log(trt: Any) -> Any:
    """A logger that keeps errors and warnings."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            worst = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
            if severity in worst and "cudaError 35" not in msg:  # no driver: said of every call
                self.errors.append(msg)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(msg)

    return Log()


def build(trt: Any, log: Any, folder: Path, job: Record, model: Record, flavor: str) -> Record:
    """Build the plan and write it; returns its record."""
    started = time.monotonic()
    try:
        trt.init_libnvinfer_plugins(log, "")
        builder = trt.Builder(log)
    except (TypeError, RuntimeError) as error:  # pybind raises them when the library returns no object
        reason = "; ".join(log.errors) or str(error)
        raise Failed(6, f"{flavor} does not start here: {reason}", "check the NVIDIA driver") from error
    plugins = load_plugins(trt, folder, job)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parse(trt, log, network, folder / model["graph"]["file"])
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    set_options(trt, config, job)
    if flavor == "tensorrt-rtx":
        capability = getattr(trt.ComputeCapability, job["target"].upper(), None)
        if capability is None:
            what = "{} {} builds no engine for {}".format(flavor, trt.__version__, job["target"])
            raise Failed(5, what, "leave --flavor out, to build with TensorRT")
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)
    add_profiles(builder, config, network, job)
    memory = builder.build_serialized_network(network, config)
    if memory is None:
        raise Failed(5, "TensorRT builds no engine: " + reasons(log), "see the messages of TensorRT")
    plan = folder / job["plan"]
    part = plan.with_name(plan.name + ".part")
    part.write_bytes(memory)
    part.replace(plan)
    found = record(trt, network, log, job, model, plan)
    return {**found, "flavor": flavor, "plugins": plugins, "build_seconds": time.monotonic() - started}


def load_plugins(trt: Any, folder: Path, job: Record) -> dict[str, str]:
    """Load plug-in libraries, from the folder; returns their digests by name."""
    found = {}
    for name in job["plugins"]:
        path = folder / name
        if not path.is_file():
            raise Failed(5, f"{path}: no such plug-in library", "put the one that was built for this machine there")
        try:
            loaded = trt.get_plugin_registry().load_library(str(path))
        except RuntimeError:
            loaded = None
        if loaded is None:
            what = f"the plug-in library {path} cannot be loaded"
            raise Failed(5, what, "give one that was built for this machine and this TensorRT")
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def parse(trt: Any, log: Any, network: Any, graph: Path) -> None:
    """Parse the lowered graph."""
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        said = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        what = "{}: TensorRT's parser refuses it: {}".format(graph.name, " | ".join(said) or reasons(log))
        raise Failed(5, what, "use a TensorRT that knows these operators, or load their plug-ins")
    attention = getattr(trt.LayerType, "ATTENTION_INPUT", None)  # 10.3 lacks it
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if attention is not None and layer.type == attention:
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


def set_options(trt: Any, config: Any, job: Record) -> None:
    """The builder settings."""
    options = job["options"]
    if options["workspace"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options["workspace"])
    if options["opt_level"] is not None:
        config.builder_optimization_level = options["opt_level"]
    if options["max_aux_streams"] is not None:
        config.max_aux_streams = options["max_aux_streams"]
    for name in job["flags"]:
        config.set_flag(member(trt, trt.BuilderFlag, name))
    if job["hardware_level"]:
        level = member(trt, trt.HardwareCompatibilityLevel, job["hardware_level"])
        config.hardware_compatibility_level = level
    if options["dla_core"] is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options["dla_core"]


def member(trt: Any, kind: Any, name: str) -> Any:
    """A member of an enum that older versions may lack."""
    found = getattr(kind, name, None)
    if found is None:
        raise Failed(5, f"TensorRT {trt.__version__} has no {name}", "leave that setting out, or use a newer version")
    return found


def add_profiles(builder: Any, config: Any, network: Any, job: Record) -> None:
    """The optimization profiles, in their order."""
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    values = {tensor.name for tensor in tensors if tensor.is_shape_tensor}
    for shapes in job["profiles"]:
        profile = builder.create_optimization_profile()
        for name, each in shapes.items():
            place = profile.set_shape_input if name in values else profile.set_shape
            place(name, tuple(each["min"]), tuple(each["opt"]), tuple(each["max"]))
        if config.add_optimization_profile(profile) < 0:
            raise Failed(5, f"TensorRT refuses the optimization profile {shapes}", "make the hand-over again")


def record(trt: Any, network: Any, log: Any, job: Record, model: Record, plan: Path) -> Record:
    """What ``<plan>.json`` says: the record that trtpipe writes beside its own engines."""
    stated = {each["name"]: each for each in (*model["inputs"], *model["outputs"])}
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    outputs = [network.get_output(index).name for index in range(network.num_outputs)]
    sides = [[{key: stated[name][key] for key in ("name", "dtype", "shape")} for name in side if name in stated]
             for side in (inputs, outputs)]  # fmt: skip
    return {
        "schema_version": RECORD_SCHEMA,
        "version": trt.__version__,
        "target": job["target"],
        "targets": [job["target"]],
        "profiles": job["profiles"],
        "io": {"inputs": sides[0], "outputs": sides[1]},
        "options": job["options"],
        "digests": {"plan": hashlib.sha256(plan.read_bytes()).hexdigest(), "lowered": job["lowered"]},
        "warnings": list(dict.fromkeys(log.warnings))[:10],
        "notes": ["built by finish.py on " + (platform.machine() or "an unknown machine")],
    }


def read_reference(folder: Path, model: Record) -> tuple[list[Feed], list[Feed]]:
    """Reference inputs and outputs, feed by feed; none where the hand-over has none."""
    if model["reference"] is None:
        return [], []
    path = folder / model["reference"]["file"]
    try:
        with path.open("rb") as stream:
            return read_feed_archive(stream, lambda bits, side, _: widened(bits) if side == "out" else bits)
    except (OSError, ValueError) as error:
        what = f"{path}: not a file of reference inputs and outputs: {error}"
        raise Failed(2, what, "make the hand-over again") from error


def random_feed(model: Record, job: Record) -> Feed:
    """Zeros of the typical shapes, to time an engine that has no reference inputs."""
    shapes = job["profiles"][0] if job["profiles"] else {}
    feed = {}
    for each in model["inputs"]:
        shape = shapes[each["name"]]["opt"] if each["name"] in shapes else each["shape"]
        feed[each["name"]] = np.zeros([int(dim) for dim in shape], each["dtype"])
    return feed


def judge(
    model: Record, job: Record, runner: str, found: list[Feed], wanted: list[Feed], feeds: list[Feed], plan: str
) -> Record:
    """What ``parity.json`` says."""
    label = "engine:" + job["target"]
    real = model["reference"]["data"] == "real"
    outputs = judge_outputs(model, found, wanted, feeds, real=real)
    failed = [difference(label, each) for each in outputs if not each["passed"]]
    digests = {file["name"]: file["sha256"] for file in model["files"]}
    first = [next(iter(feed.values())) for feed in feeds]
    return {
        "schema_version": PARITY_SCHEMA,
        "precision": model["precision"],
        "reference": "lowered",
        "data": "reference inputs",
        "data_digest": digests[model["reference"]["file"]],
        "synthetic": not real,
        "feeds": len(feeds),
        "samples": sum(value.shape[0] if value.ndim else 1 for value in first),
        "comparisons": [{"artifact": label, "against": "lowered", "runner": runner, "outputs": outputs}],
        "digests": {label: plan},
        "reasons": failed,
        "failing_stage": "compile " + job["target"] if failed else "",
        "passed": not failed,
    }


def verdict(job: Record, parity: Record | None, latency: Record | None, runner: str) -> Record:
    """What ``finished.json`` says of the engine."""
    speed = "not measured"
    if latency is not None:
        speed = f"median {latency['median']:.3g} ms, p99 {latency['p99']:.3g} ms ({runner})"
    if parity is None:
        why = "built, not executed" if latency is None else "executed, but there are no reference outputs"
        scope, outcome, accuracy = f"engine for {job['target']}: {why}", "not judged", "nothing was compared"
        return stated(outcome, "NOT JUDGED: " + scope, scope, 0, "none", accuracy, speed)
    count, random = parity["samples"], "random " if parity["synthetic"] else ""
    scope = f"on the engine for {job['target']} ({runner}, {count} {random}sample{'s' * (count != 1)})"
    data = "random" if parity["synthetic"] else "real"
    if parity["reasons"]:
        return stated("failed", f"FAILED {scope}", scope, count, data, "; ".join(parity["reasons"]), speed)
    if parity["synthetic"]:
        accuracy = f"not judged on real data: outputs within tolerance on {count} random samples say little"
        return stated("not judged", f"NOT JUDGED on real data: ran {scope}", scope, count, data, accuracy, speed)
    accuracy = f"outputs within tolerance on {count} real samples"
    return stated("passed", f"PASSED {scope}", scope, count, data, accuracy, speed)


def stated(outcome: str, headline: str, scope: str, samples: int, data: str, accuracy: str, speed: str) -> Record:
    """A verdict in the fields of ``model.json``, and the latency in words."""
    said = {"outcome": outcome, "exit_code": 3 if outcome == "failed" else 0, "headline": headline, "scope": scope,
            "samples": samples, "data": data, "accuracy": accuracy, "latency": "not judged"}  # fmt: skip
    return {"verdict": said, "speed": speed}


def write(
    folder: Path, model: Record, job: Record, engine: Record, parity: Record | None, latency: Record | None,
    runner: str,
) -> int:  # fmt: skip
    """Write the records, the verdict last, and put the plan into the model repository; returns the exit code."""
    measured = None if latency is None else {
        "schema_version": RECORD_SCHEMA, "machine": machine(), "measurements": [latency], "passed": None,
    }  # fmt: skip
    found = verdict(job, parity, latency, runner)
    files = {f"{job['plan']}.json": engine, PARITY: parity, LATENCY: measured}
    for name, content in files.items():
        if content is None:
            (folder / name).unlink() if (folder / name).exists() else None
        else:
            write_json(folder / name, content)
    built = {"schema": FINISHED_SCHEMA, "plan": job["plan"], "sha256": engine["digests"]["plan"],
             "handover": hashlib.sha256((folder / JOB).read_bytes()).hexdigest(), "machine": machine(),
             "created": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())}  # fmt: skip
    write_json(folder / FINISHED, {**built, **found})
    if job["repository"] and not found["verdict"]["exit_code"]:
        place = folder / job["repository"]
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(place.name + ".part")
        shutil.copyfile(str(folder / job["plan"]), str(part))
        part.replace(place)
        say(f"put the plan into the model repository: {place}")
    sys.stdout.write(f"{found['verdict']['headline']}; {found['speed']}\n")
    for reason in parity["reasons"] if parity else []:
        sys.stdout.write(f"  {reason}\n")
    return int(found["verdict"]["exit_code"])


def write_json(path: Path, content: Record) -> None:
    """Whole or not at all; NaN and infinities as texts, as trtpipe has them."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(plain(content), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


def plain(value: Any) -> Any:
    """Without NaN and infinities."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def machine() -> Record:
    """What reports say of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count() or 1, "memory": memory,
            "os": platform.platform(), "python": platform.python_version()}  # fmt: skip


def gpu_name(job: Record) -> str:
    """The board's name on a Jetson; else the compute capability."""
    try:
        return Path("/proc/device-tree/model").read_text(encoding="utf-8").strip("\0 \n") or str(job["target"])
    except OSError:
        return str(job["target"])
