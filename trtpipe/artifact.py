"""What flows between stages: artifacts, their files and the I/O contract of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json

from trtpipe.digest import sha256_file, sha256_json, unique_keys
from trtpipe.durable import read_bounded
from trtpipe.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Self

    #: input or output name -> array
    Feed: TypeAlias = dict[str, np.ndarray]

R = TypeVar("R", bound="Record")

#: The most that is read of a record: bytes of its file, and values in it, which take more memory than their text.
_MOST_BYTES, _MOST_VALUES = 32 << 20, 4 << 20
#: The field of a record's file that holds its schema version.
VERSION_KEY = "schema_version"


class Record(BaseModel):
    """A frozen, strict, JSON-serializable value: the base of everything trtpipe writes to disk.

    In a file it has one more field, ``schema_version``; files of another version are refused.

    Attributes:
        SCHEMA: that version, raised whenever the fields of the record, or of one inside it, change. Files of 1 may
            lack the field.
    """

    SCHEMA: ClassVar[int] = 2

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings", defer_build=True)

    def write(self, path: Path) -> None:
        """Write as indented JSON with sorted keys: equal records give equal bytes."""
        path.write_text(self.to_file() + "\n", encoding="utf-8")

    def to_line(self) -> str:
        """Compact JSON, as a message to another process.

        Raises:
            InputError: a name in it is not valid UTF-8, so that no text can hold it.
        """
        try:
            return self.model_dump_json()
        except PydanticSerializationError as error:
            for text in _texts(self.model_dump()):
                if not text.isprintable() and any("\ud800" <= char <= "\udfff" for char in text):
                    shown = text.encode("utf-8", "backslashreplace").decode()
                    raise InputError(f"{shown}: not valid UTF-8", "give that file or folder another name") from error
            raise

    def to_json(self) -> str:
        """Indented JSON with sorted keys."""
        return _as_text(self.to_dict())

    def to_file(self) -> str:
        """What a file holds: the same with ``schema_version``, which ``parse`` wants."""
        return _as_text({**self.to_dict(), VERSION_KEY: self.SCHEMA})

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values; NaN and infinities become strings."""
        plain: dict[str, Any] = json.loads(self.to_line())
        return plain

    @classmethod
    def read(cls: type[R], path: Path) -> R:
        """Read a record back.

        Raises:
            InputError: the file is missing, is not JSON, is of another schema version, or is not such a record; the
                message names the field.
        """
        try:
            data = read_bounded(path, _MOST_BYTES)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error}", "give an existing JSON file") from error
        return cls.parse(data, path)

    @classmethod
    def parse(cls: type[R], data: bytes, path: Path) -> R:
        """The record in the content of a file, or of a member of one; ``path`` is for errors.

        Raises:
            InputError: as ``read``.
        """
        if sum(map(data.count, b"[{,")) > _MOST_VALUES:
            raise InputError(f"{path}: holds more than {_MOST_VALUES:,} values", "give the right file")
        try:
            content = json.loads(data.decode("utf-8"), object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}: not JSON as trtpipe writes it: {error}", "make it again with the command that wrote it"
            ) from error
        expected = f"expected a {cls.__name__} record of schema {cls.SCHEMA}"
        if not isinstance(content, dict):
            raise InputError(f"{path}: holds no JSON object ({expected})", "give the right file")
        _check_version(content.pop(VERSION_KEY, None), cls, path)
        try:
            return TypeAdapter(cls).validate_json(json.dumps(content))  # in Python values, a list would be no tuple
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "document"
            raise InputError(
                f"{path}: {field}: {first['msg']} ({expected})",
                "use the file as trtpipe wrote it, or make it again with the command that wrote it",
            ) from error


def _as_text(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False)


def _check_version(found: object, record: type[Record], path: Path) -> None:
    if type(found) is int and found == record.SCHEMA:
        return
    what = f"has no {VERSION_KEY}" if found is None else f"is of schema {json.dumps(found)[:40]}"
    raise InputError(
        f"{path}: {what}: made by another version of trtpipe, or not a {record.__name__} record; "
        f"this one reads {record.SCHEMA}",
        "make it again with the command that wrote it, or give the right file",
    )


def _texts(value: object) -> Iterator[str]:
    """Every text in plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (*_texts(key), *_texts(item))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


class PublicRecord(Record):
    """A record that public functions return, or take: InputError says what is wrong with values that are to become one.

    pydantic's own error stays where trtpipe reads what trtpipe wrote: messages of child processes, the store.
    """

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """As pydantic's, with our error."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise cls.complaint(obj, error) from error

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """As pydantic's, with our error."""
        try:
            return super().model_validate_json(json_data, **options)
        except ValidationError as error:
            try:
                given = from_json(json_data)
            except ValueError:
                given = None
            raise cls.complaint(given, error) from error

    @classmethod
    def complaint(cls, given: Any, error: ValidationError) -> InputError:
        """What is wrong with ``given``, as the error of its validation says."""
        first = error.errors()[0]
        field = "".join(f"{part}." for part in first["loc"]).rstrip(".")
        message = f"{cls.__name__}: {field and f'{field}: '}{first['msg']}"
        return InputError(message, f"give what to_dict or to_json of a {cls.__name__} returned")


class TensorSpec(PublicRecord):
    """One graph input or output.

    Attributes:
        name: the tensor's name in the graph.
        dtype: numpy's name of the element type (``float32``, ``int64``, ...), plus ``bfloat16`` and ``float8_e4m3fn``.
        shape: one entry a dimension: an int, a symbolic name, or ``None`` where nothing is known;
            ``None`` as a whole if even the rank is unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dims = "unknown rank" if self.shape is None else "x".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


class IOContract(PublicRecord):
    """The ordered inputs and outputs that no stage may change silently."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def difference(self, other: IOContract) -> str | None:
        """Say how ``other`` breaks this contract (names, order, dtype, rank), or ``None`` if it keeps it."""
        for side, mine, theirs in (("input", self.inputs, other.inputs), ("output", self.outputs, other.outputs)):
            names, other_names = [s.name for s in mine], [s.name for s in theirs]
            if names != other_names:
                return f"{side}s were {names}, now {other_names}"
            for a, b in zip(mine, theirs, strict=True):
                if a.dtype != b.dtype:
                    return f"{side} {a.name!r} was {a.dtype}, now {b.dtype}"
                if a.shape is not None and b.shape is not None and len(a.shape) != len(b.shape):
                    return f"{side} {a.name!r} had rank {len(a.shape)}, now {len(b.shape)}"
        return None


class FileEntry(Record):
    """One file of an artifact: its name inside the artifact's folder, its content digest and size in bytes."""

    name: str
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path, name: str = "") -> FileEntry:
        """Describe an existing file; ``name`` where it lies in a folder of the artifact's folder."""
        return cls(name=name or path.name, sha256=sha256_file(path), size=path.stat().st_size)


@dataclass(frozen=True)
class Artifact:
    """An immutable result of a stage, resting in ``folder``.

    Attributes:
        kind: the word between the arrows: ``model``, ``simplified``, ``ranges``, ``lowered``, ``engine``, ...
        target: the GPU target of an engine, otherwise ``None``.
        folder: where the files lie now; never part of the identity.
        files: main file first, then side files (external data, the JSON sidecar), in an order that does not vary.
    """

    kind: str
    folder: Path
    files: tuple[FileEntry, ...]
    target: str | None = None

    @property
    def path(self) -> Path:
        """The main file."""
        return self.folder / self.files[0].name

    @property
    def label(self) -> str:
        """How people name it: the kind, with the target where there is one."""
        return self.kind if self.target is None else f"{self.kind}:{self.target}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    @property
    def digest(self) -> str:
        """The content identity: sha256 over the files' digests in their order, names left out."""
        return sha256_json([entry.sha256 for entry in self.files])

    @property
    def sidecar(self) -> Path:
        """The JSON file beside the main file that records how it came to be."""
        return self.folder / f"{self.files[0].name}.json"

    @property
    def described(self) -> bool:
        """Whether it has a sidecar; what users bring need not have one."""
        return any(entry.name == self.sidecar.name for entry in self.files)


class Observed(Record):
    """What the user's code read where it ran, beyond what it was given; paths are absolute.

    Attributes:
        files: whose content was read, modules among them.
        asked: paths that it asked about: whether they are there, and what they are.
        measured: paths whose size or time it may know too; ``folder/*`` for all that is in a folder.
        listed: folders whose names it read.
        variables: of the environment; ``*`` for all.
        unseen: what it used that cannot be followed. If there is any, the code has to run again.
    """

    files: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draft:
    """What a stage has just made in its work folder, before it is checked and stored.

    Attributes:
        observed: what the user's code read, where the stage ran some.
    """

    kind: str
    folder: Path
    names: tuple[str, ...]
    target: str | None = None
    observed: Observed = field(default_factory=Observed)

    @property
    def path(self) -> Path:
        """The main file."""
        return self.folder / self.names[0]

    @property
    def sidecar(self) -> Path:
        """The JSON file beside the main file."""
        return self.folder / f"{self.names[0]}.json"

    def finish(self) -> Artifact:
        """Digest the files: the draft as an artifact that lies where it was made."""
        entries = tuple(FileEntry.of(self.folder / name) for name in self.names)
        return Artifact(kind=self.kind, folder=self.folder, files=entries, target=self.target)
