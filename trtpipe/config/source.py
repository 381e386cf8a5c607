"""What a pipeline starts from: an ONNX file, an exported program, a factory of modules, or a module in hand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from trtpipe.digest import JSON, sha256_file, sha256_json
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Memory(Protocol):
    """Remembers small facts between runs; losing one costs work, never correctness."""

    def remember(self, name: str, value: JSON) -> None: ...

    def recall(self, name: str) -> JSON | None: ...


class Source(Protocol):
    """Where a model comes from."""

    @property
    def label(self) -> str:
        """How people name it."""

    def digest(self, memory: Memory) -> str | None:
        """The identity of its content, external data included; ``None`` if only running the export can tell."""

    def learn(self, memory: Memory, read: Sequence[Path], model_digest: str) -> str:
        """The identity, once the export has run and is known to have read ``read``."""
        return self.digest(memory) or model_digest


@dataclass(frozen=True)
class OnnxSource(Source):
    """An ``.onnx`` file with its external data."""

    path: Path

    @property
    def label(self) -> str:
        return str(self.path)

    def digest(self, memory: Memory) -> str | None:
        from trtpipe.preflight import digest_model

        return digest_model(self.path)


@dataclass(frozen=True)
class Pt2Source(Source):
    """A ``.pt2`` file: a program saved by ``torch.export.save``. Loading one runs code from the file."""

    path: Path
    #: As a factory has it: a child process loads either by ``module`` and ``function``.
    function: ClassVar[str] = ""

    @property
    def module(self) -> str:
        return str(self.path)

    @property
    def label(self) -> str:
        return str(self.path)

    def digest(self, memory: Memory) -> str | None:
        return sha256_of_pt2(self.path)


@dataclass(frozen=True)
class FactorySource:
    """``path/file.py:function`` or ``package.module:function``: user code that returns a module.

    The files it read the last time (its own source, modules beside it, weights) are remembered with their digests;
    while all of them are unchanged the factory need not run again. Tracked are files opened through Python or
    safetensors.
    """

    module: str
    function: str

    @property
    def label(self) -> str:
        return f"{self.module}:{self.function}"

    @property
    def file(self) -> Path | None:
        """The Python file, if the factory was named by one."""
        return Path(self.module) if self.module.endswith(".py") else None

    @property
    def _memo(self) -> str:
        where = str(self.file.resolve()) if self.file else f"{Path.cwd()}:{self.module}"
        return f"factory-{sha256_json([where, self.function])}"

    def digest(self, memory: Memory) -> str | None:
        known = memory.recall(self._memo)
        if not isinstance(known, list) or not known:
            return None
        for item in known:
            path = Path(str(item[0]))
            if not path.is_file() or sha256_file(path) != item[1]:
                return None
        return self._identity(known)

    def learn(self, memory: Memory, read: Sequence[Path], model_digest: str) -> str:
        found: list[Any] = [[str(path), sha256_file(path)] for path in sorted(set(read)) if path.is_file()]
        memory.remember(self._memo, found)
        return self._identity(found)

    def _identity(self, read: Iterable[Any]) -> str:
        home = str((self.file or Path.cwd() / "x").resolve().parent)
        content = sorted([_relative(str(path), home), digest] for path, digest in read)
        return sha256_json(["factory", self.function, content])


@dataclass(frozen=True)
class ModuleSource:
    """An ``nn.Module`` the caller holds, with example inputs. Its identity is what it exports to."""

    module: object
    example_inputs: tuple[Any, ...]

    @property
    def label(self) -> str:
        return type(self.module).__name__

    def digest(self, memory: Memory) -> str | None:
        return None

    def learn(self, memory: Memory, read: Sequence[Path], model_digest: str) -> str:
        return sha256_json(["module", model_digest])


def sha256_of_pt2(path: Path) -> str:
    """The identity of a ``.pt2`` file."""
    return sha256_json(["pt2", sha256_file(path)])


def parse_source(text: str) -> OnnxSource | Pt2Source | FactorySource:
    """Understand ``model.onnx``, ``model.pt2``, ``path/file.py:factory`` or ``package.module:factory``.

    Raises:
        InputError: none of these, or a file that does not exist.
    """
    factory = re.fullmatch(r"(?P<module>.+?):(?P<function>[A-Za-z_]\w*)", text)
    if factory and not Path(text).exists():
        return _factory(factory["module"], factory["function"])
    path = Path(text)
    if path.suffix == ".pt2":
        if not path.is_file():
            raise InputError(f"{path}: no such file", "check the path")
        return Pt2Source(path)
    if path.suffix == ".py":
        raise InputError(f"{text}: which function makes the model?", f"name it: {text}:my_factory")
    if path.suffix in (".pt", ".pth"):
        raise InputError(
            f"{path}: a pickled PyTorch file holds no graph that can be exported safely",
            "give a factory (path/file.py:function), a .pt2 made by torch.export.save, or an .onnx file",
        )
    return OnnxSource(path)


def _factory(module: str, function: str) -> FactorySource:
    if module.endswith(".py"):
        if not Path(module).is_file():
            raise InputError(f"{module}: no such file", "check the path before the colon")
    elif not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", module):
        raise InputError(
            f"{module}:{function}: neither a file nor a module with that name",
            "write SOURCE as model.onnx, model.pt2, path/file.py:factory or package.module:factory",
        )
    return FactorySource(module, function)


def _relative(path: str, home: str) -> str:
    inside = Path(path)
    return str(inside.relative_to(home)) if inside.is_relative_to(home) else inside.name
