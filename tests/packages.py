"""A build and its package to look at, and the record of a package that needs neither."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from trtpipe.config.limits import OutputLimits
from trtpipe.delivery.record import (
    SCHEMA,
    FileDigest,
    Graph,
    Model,
    Plan,
    Range,
    Reference,
    StatedVerdict,
    Tensor,
)
from trtpipe.digest import canonical_json

if TYPE_CHECKING:
    from pathlib import Path


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def record(**changes: object) -> Model:
    """Two files: a plan and a graph."""
    fields: dict[str, object] = {
        "schema": SCHEMA, "trtpipe": "0.1.0", "name": "net", "version": "", "description": "", "source": "net.onnx",
        "precision": "int8", "backend": "tensorrt-rtx",
        "inputs": (Tensor("x", "float32", ("N", 3, 8, 8)),),
        "outputs": (Tensor("y", "float32", ("N", 5), unit="logit"),),
        "classes": ("a", "b"), "preprocessing": (), "postprocessing": (), "tolerances": {"y": OutputLimits(atol=0.5)},
        "verdict": StatedVerdict("passed", 0, "PASSED", "on the lowered graph", 16, "real", "top1", "not judged"),
        "plans": (Plan("sm89.plan", "tensorrt-rtx", "1.7.1.116", "sm89", digest(b"plan"),
                       ({"x": Range((1, 3, 8, 8), (2, 3, 8, 8), (8, 3, 8, 8))},)),),
        "graph": Graph("lowered.onnx"), "reference": Reference("reference.npz", 1, "real", "onnxruntime"),
        "licenses": (), "model_card": "", "provenance": "",
        "files": tuple(FileDigest(name, digest(content), len(content)) for name, content in FILES.items()),
    }  # fmt: skip
    return Model(**(fields | changes))  # type: ignore[arg-type]


FILES = {"sm89.plan": b"plan", "lowered.onnx": b"graph", "reference.npz": b"reference"}


def written(folder: Path, names: list[str], proof: str = "0" * 64, leaving: tuple[str, ...] = ()) -> bytes:
    """As trtpipe lists the files that it wrote into a folder."""
    entries = [{"name": name, "sha256": digest((folder / name).read_bytes()), "size": (folder / name).stat().st_size}
               for name in names]  # fmt: skip
    content = {"files": entries, "leaving": list(leaving)}
    document = {"content": content, "proof": proof, "sha256": digest(canonical_json(content).encode())}
    return (canonical_json(document) + "\n").encode()
