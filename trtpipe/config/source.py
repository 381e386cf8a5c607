"""What a pipeline starts from: an ONNX file, an exported program, a factory of modules, or a module in hand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from trtpipe.config.observed import UserCode, state_of
from trtpipe.digest import sha256_file, sha256_json
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.artifact import Observed
    from trtpipe.config.observed import Memory
    from trtpipe.config.recipe import DataSettings
    from trtpipe.digest import JSON


class Source(Protocol):
    """Where a model comes from."""

    @property
    def label(self) -> str:
        """How people name it."""

    def digest(self, memory: Memory) -> str | None:
        """The identity of its content, external data included; ``None`` if only running the export can tell."""

    def learn(self, memory: Memory, observed: Observed, model_digest: str) -> str:
        """The identity, once the export has run.

        Args:
            observed: what the user's code read meanwhile.
            model_digest: of what was exported.
        """
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

    Its identity is what it exported to. That is remembered together with all that it was seen to read (its source,
    modules beside it, weights, folders, the environment); while all of that is as it was, the factory need not run
    again. One that used what cannot be seen runs in every build.

    Attributes:
        data: where example inputs come from if the factory returns none.
    """

    module: str
    function: str
    data: DataSettings | None = None

    @property
    def label(self) -> str:
        return f"{self.module}:{self.function}"

    @property
    def file(self) -> Path | None:
        """The Python file, if the factory was named by one."""
        return Path(self.module) if self.module.endswith(".py") else None

    @property
    def _code(self) -> UserCode:
        data: list[JSON] = []
        if self.data is not None:
            where = str(Path(self.data.source).resolve())
            data = [self.data.model_copy(update={"source": where}).to_dict()]
        return UserCode("factory", _place(self.module), self.function, *data)

    def digest(self, memory: Memory) -> str | None:
        """As remembered, if all that was read last time is as it was."""
        return self._code.recall(memory)

    def learn(self, memory: Memory, observed: Observed, model_digest: str) -> str:
        """The content of what was exported; remembered with what was read, if that is all there is to know."""
        identity = sha256_json(["factory", model_digest])
        self._code.remember(memory, observed, identity)
        return identity


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

    def learn(self, memory: Memory, observed: Observed, model_digest: str) -> str:
        return sha256_json(["module", model_digest])


@dataclass(frozen=True)
class MetricSource:
    """``path/file.py:function`` or ``package.module:function``: user code that measures.

    Its identity is its name and the state of all that it was seen to read, the file among that; or what it led to
    where not all of that can be seen.
    """

    label: str

    @property
    def _code(self) -> UserCode:
        module, _, function = self.label.rpartition(":")
        return UserCode("metric", _place(module), function)

    def digest(self, memory: Memory) -> str | None:
        """As remembered, if all that was read last time is as it was."""
        return self._code.recall(memory)

    def learn(self, memory: Memory, observed: Observed, result_digest: str) -> str:
        """The identity, once it has run."""
        name = self.label.replace("\\", "/").rpartition("/")[2]  # a file may hold many functions
        identity = sha256_json(["metric", name, result_digest if observed.unseen else state_of(observed)])
        self._code.remember(memory, observed, identity)
        return identity


def _place(module: str) -> str:
    """Where a file, or a module's name, leads here."""
    return str(Path(module).resolve()) if module.endswith(".py") else f"{Path.cwd()}:{module}"


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
