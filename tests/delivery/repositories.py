"""Packages with plans of a recording fake of TensorRT, and what a real tritonserver says of a repository."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from backends.recording_tensorrt import RecordingTensorRT
from packages import digest, record

from trtpipe.config.limits import OutputLimits
from trtpipe.delivery.assembly import Assembly
from trtpipe.delivery.record import Graph, Plan, Range, Reference, Tensor
from trtpipe.reference.pytorch_outputs import save_reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.delivery.record import Model

#: What it says of a configuration that it takes, where it has no such back-end.
ACCEPTED = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: .*unable to find backend library for backend")
REFUSED = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<why>.*)\"")


def batched(low: int = 1, mid: int = 2, high: int = 8, name: str = "x") -> dict[str, Range]:
    return {name: Range((low, 3, 8, 8), (mid, 3, 8, 8), (high, 3, 8, 8))}


def plan_bytes(version: str) -> bytes:
    """What the recording fake's builder gives."""
    trt = RecordingTensorRT(version)
    return trt.Builder(None).build_serialized_network(None, None)


def packaged(
    folder: Path,
    *,
    inputs: Sequence[Tensor] = (Tensor("x", "float32", ("N", 3, 8, 8)),),
    outputs: Sequence[Tensor] = (Tensor("y", "float32", ("N", 2)),),
    profiles: tuple[Mapping[str, Range], ...] = (batched(),),
    targets: Sequence[str] = ("sm89",),
    flavor: str = "tensorrt",
    version: str = "tensorrt-10.3.0",
    feeds: Sequence[Mapping[str, np.ndarray]] | None = None,
    **changes: object,
) -> Assembly:
    """A package in the making, of a model with these tensors; with reference inputs unless ``feeds`` is empty."""
    content = plan_bytes(version)
    files = {"lowered.onnx": folder / "lowered.onnx"}
    files["lowered.onnx"].write_bytes(b"graph")
    plans = []
    for target in targets:
        files[f"{target}.plan"] = folder / f"{target}.plan"
        files[f"{target}.plan"].write_bytes(content)
        number = version.rpartition("-")[2]
        plans.append(Plan(f"{target}.plan", flavor, number, target, digest(content), tuple(map(dict, profiles))))
    given = [feed_of(inputs, profiles)] if feeds is None else list(feeds)
    if given:
        files["reference.npz"] = folder / "reference.npz"
        save_reference(files["reference.npz"], given, [{"y": np.zeros((1, 2), np.float32)} for _ in given])
    fields: dict[str, object] = {
        "inputs": tuple(inputs), "outputs": tuple(outputs), "plans": tuple(plans), "files": (),
        "graph": Graph("lowered.onnx"),
        "reference": Reference("reference.npz", len(given), "real", "onnxruntime") if given else None,
        "tolerances": {each.name: OutputLimits(atol=0.5) for each in outputs},
    }  # fmt: skip
    model: Model = record(**(fields | changes))
    return Assembly(model, files)


def feed_of(inputs: Sequence[Tensor], profiles: Sequence[Mapping[str, Range]]) -> dict[str, np.ndarray]:
    feed = {}
    for each in inputs:
        known = profiles[0].get(each.name) if profiles else None
        fixed = each.shape is not None and all(isinstance(dim, int) for dim in each.shape)
        shape = known.opt if known and not fixed else tuple(d if isinstance(d, int) else 2 for d in each.shape or ())
        if each.dtype == "object":
            feed[each.name] = np.full(shape, "text")
            continue
        kind = np.dtype(each.dtype)
        feed[each.name] = np.asarray(known.opt, kind) if known and fixed else np.ones(shape, kind)
    return feed


def laid_out(files: Mapping[str, Path], out: Path) -> Path:
    """A repository as it will lie there, without the record of what trtpipe wrote."""
    for name, path in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(path.read_bytes())
    return out


def tritonserver() -> Path | None:
    """The server in the nvidia-pytriton wheel."""
    found = importlib.util.find_spec("pytriton")
    if found is None or found.origin is None:
        return None
    server = Path(found.origin).parent / "tritonserver" / "bin" / "tritonserver"
    return server if server.is_file() else None


def judged(repository: Path) -> tuple[set[str], dict[str, str]]:
    """Models that a real server takes up to looking for their back-end, and why it refuses others.

    It has no back-ends, opens no port, and stops by itself, because no model can be loaded.
    """
    server = tritonserver()
    assert server is not None
    empty = repository.parent / "no-backends"
    empty.mkdir(exist_ok=True)
    done = subprocess.run(
        [server, f"--model-repository={repository}", f"--backend-directory={empty}", "--allow-http=false",
         "--allow-grpc=false", "--allow-metrics=false", "--exit-on-error=true", "--disable-auto-complete-config"],
        env={**os.environ, "LD_LIBRARY_PATH": str(server.parents[3] / "nvidia_pytriton.libs")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    refused = {each["model"]: each["why"] for each in REFUSED.finditer(said)}
    assert done.returncode, said
    return {each["model"] for each in ACCEPTED.finditer(said)}, refused


def changed(assembly: Assembly, **changes: object) -> Assembly:
    """With other fields in the model's record."""
    return replace(assembly, model=replace(assembly.model, **changes))  # type: ignore[arg-type]
