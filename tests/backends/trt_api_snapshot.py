"""The snapshots in ``trt_api/``: what four versions of TensorRT offer to Python."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "trt_api"


@dataclass(frozen=True)
class Api:
    """One version of TensorRT.

    Attributes:
        classes: class -> (bases, member -> signatures, ``None`` for what is no method).
        functions: function -> signatures.
    """

    flavor: str
    version: str
    classes: dict[str, dict]
    functions: dict[str, list[str]]

    @property
    def name(self) -> str:
        return f"{self.flavor}-{self.version}"

    def has(self, kind: str, member: str) -> bool:
        return member in self.members(kind)

    def members(self, kind: str) -> dict[str, list[str] | None]:
        """Those of the class and of its bases."""
        entry = self.classes.get(kind, {"bases": [], "members": {}})
        found = {name: value for base in entry["bases"] for name, value in self.members(base).items()}
        return found | entry["members"]

    def returns(self, kind: str, method: str) -> str:
        """The class that a method returns; empty where that is no class of TensorRT's."""
        return returned(self.members(kind).get(method) or [])


def returned(signatures: list[str]) -> str:
    return next((text.partition(" -> ")[2] for text in signatures if " -> " in text), "")


def parameters(signature: str) -> list[str]:
    return [name for name in signature[1 : signature.index(")")].split(", ") if name]


def load(path: Path) -> Api:
    return Api(**json.loads(path.read_text(encoding="utf-8")))


APIS = {api.name: api for api in map(load, sorted(FOLDER.glob("*.json")))}
