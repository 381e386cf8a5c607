"""``model.json``, the index of a package: what the model takes and gives, how good it is, and which files there are.

The classes here are read by the runtime on machines that have little more than numpy, and written by ``assembly``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal

from trtpipe.config.audio_transform import AudioTransform
from trtpipe.config.image_transform import ImageTransform
from trtpipe.config.limits import OutputLimits
from trtpipe.delivery.schema import load_object, read_record, to_text
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

#: Name of the file, and the version of its fields: raised whenever they change.
MODEL, SCHEMA = "model.json", 2
#: Files of a package that ``model.json`` does not list: itself, what signs it, and the note of which files of a folder
#: trtpipe wrote.
SIGNATURE, WRITTEN = "model.sig", ".trtpipe.json"
UNLISTED = frozenset({MODEL, SIGNATURE, WRITTEN})
#: What makes a package a hand-over, and what says that it was finished.
HANDOVER, FINISHED = "handover.json", "finished.json"
#: What ends a line, moves a cursor or turns the direction of writing: with it a name could pass for what trtpipe says;
#: and halves of characters, which no file can hold.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: Fields that may be of several lines.
_LONG = frozenset({"description", "meaning"})


@dataclass(frozen=True)
class FileDigest:
    """One file of the package: name, sha256 of its content, size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        dtype: numpy's name of the element type, or that of ml_dtypes (``bfloat16``).
        shape: one entry a dimension: a length, a symbolic name, or ``None`` where nothing is known; ``None`` as a whole
            if even the rank is unknown.
        meaning, unit: what the values are, in the author's words.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    meaning: str = ""
    unit: str = ""

    def __str__(self) -> str:
        dims = "unknown rank" if self.shape is None else "x".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


@dataclass(frozen=True)
class Preprocessing:
    """How image files, or WAV files, become one input.

    Attributes:
        image, audio: one of the two.
        raw: whether the pixels go in as they are, 0 to 255, neither scaled nor normalized.
    """

    input: str
    image: ImageTransform | None = None
    raw: bool = False
    audio: AudioTransform | None = None

    def __post_init__(self) -> None:
        if (self.image is None) == (self.audio is None):
            raise ValueError("needs image or audio, and not both")

    @property
    def takes(self) -> Literal["image", "sound"]:
        """What kind of files."""
        return "sound" if self.image is None else "image"

    def array(self, path: Path, content: IO[bytes] | None = None) -> np.ndarray:
        """A file as calibration prepares it, without batch axis.

        Args:
            path: of the file; with ``content`` only a name for error messages.
            content: what the file holds.

        Raises:
            InputError: it is no such file; the message names it.
            HostError: an image, and Pillow is not installed.
        """
        if self.audio is not None:
            from trtpipe.data.waves import load_energies

            return load_energies(path, self.audio, content)
        from trtpipe.data.pixels import load_tensor, require_pillow

        require_pillow()
        assert self.image is not None
        return load_tensor(path, self.image, self.raw, content)


@dataclass(frozen=True)
class Postprocessing:
    """How one output is read.

    Attributes:
        activation: what is still to be applied to the values.
        axis: along which the values belong to the classes.
        classes: whether they are scores of the package's classes, the best of which is the answer.
    """

    output: str
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    axis: int = -1
    classes: bool = False


@dataclass(frozen=True)
class StatedVerdict:
    """The verdict on the build.

    Attributes:
        exit_code: of the build: 0, or which gate failed.
        headline: all of it in one line.
        scope: what was executed, where and on how many samples, and what was not.
        data: what outputs were compared on.
        accuracy: the figures, or the reasons, in one line.
        latency: what the latency gate says; times are no content, and stay with the build.
        allowed_failed: whether it failed, and was packaged all the same because somebody asked for that.
    """

    outcome: Literal["passed", "failed", "not judged"]
    exit_code: int
    headline: str
    scope: str
    samples: int
    data: Literal["real", "random", "none"]
    accuracy: str
    latency: Literal["passed", "failed", "not judged"]
    allowed_failed: bool = False


@dataclass(frozen=True)
class Range:
    """Smallest, typical and largest shape of one input (of a shape tensor: its values)."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """One engine.

    Attributes:
        file: its name in the package.
        flavor, version: the TensorRT that built it, and whose runtime loads it.
        target: the compute capability it is for (``sm89``).
        sha256: of the plan itself; of the file, too, unless that is encrypted (``Encryption``).
        profiles: the optimization profiles, in the engine's order; empty for a static engine.
        version_compatible: whether later releases of the same major version load it.
        and_later: whether later compute capabilities run it.
        plugins: file name of each plug-in library that has to be loaded first -> sha256 of it; they are not inside.
    """

    file: str
    flavor: str
    version: str
    target: str
    sha256: str
    profiles: tuple[dict[str, Range], ...] = ()
    version_compatible: bool = False
    and_later: bool = False
    plugins: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """The lowered graph.

    Attributes:
        file: its name in the package.
        data: names of its external data.
        half: the 16-bit format of what is not quantized; empty: float32.
    """

    file: str
    data: tuple[str, ...] = ()
    half: str = ""


@dataclass(frozen=True)
class Reference:
    """Inputs, and the outputs of the lowered graph for them, for self-tests.

    Attributes:
        file: an ``.npz`` file (``trtpipe.delivery.samples``).
        feeds: how many runs of the model it holds.
        data: what the inputs are.
        runner: what computed the outputs.
    """

    file: str
    feeds: int
    data: Literal["real", "random"]
    runner: str


@dataclass(frozen=True)
class Encryption:
    """What is encrypted, and for whom.

    Attributes:
        recipients: whose keys decrypt it, as age writes them (``age1...``) or SSH does.
        files: of each encrypted file, its name and what is inside: sha256 and size of the decrypted content.
        format: how.
    """

    recipients: tuple[str, ...]
    files: tuple[FileDigest, ...]
    format: Literal["age-encryption.org/v1"] = "age-encryption.org/v1"


@dataclass(frozen=True)
class Member:
    """One of several packages in a package, whole as it was.

    Attributes:
        name: of the model, in this package.
        file: an archive of the package.
        index: sha256 of its ``model.json``, which lists the digests of all its files.
    """

    name: str
    file: str
    index: str


@dataclass(frozen=True)
class Model:
    """What ``model.json`` says.

    Attributes:
        schema: version of these fields; newer ones are refused.
        trtpipe: version of trtpipe that wrote it.
        name, version, description: the author's.
        source: what the model was built from, without folders.
        precision, backend: what the build was asked for.
        inputs, outputs: in the graph's order.
        classes: names of the classes, in the order of their numbers; empty where only the numbers are known.
        preprocessing: for inputs that are made of files.
        postprocessing: of outputs.
        tolerances: output -> when a device's outputs count as those of the reference.
        verdict: on the build.
        plans: engines; the same target may be there for several flavors and versions.
        graph: ``None`` where the build has none that runs on a CPU.
        reference: ``None`` where there is nothing to test with.
        licenses: files with the model's licenses.
        model_card: a file; empty for none.
        provenance: a file that says where the build comes from; empty for none.
        bill_of_materials: a file that lists what the model was made of; empty for none.
        files: every file but those of ``UNLISTED``, by name.
        notes: what the user of the package should know.
        encryption: ``None`` where nothing is encrypted.
        unordered: outputs whose rows (axis 1) may come in any order.
        ignored: output -> where it does not count: the value that the reference has there, or the input or other output
            that is 0 there.
        members: a package of each model, where the package holds several. Then nothing is said here of inputs, outputs,
            plans, graph and reference, and the verdict is the worst of theirs.
    """

    schema: int
    trtpipe: str
    name: str
    version: str
    description: str
    source: str
    precision: str
    backend: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    classes: tuple[str, ...]
    preprocessing: tuple[Preprocessing, ...]
    postprocessing: tuple[Postprocessing, ...]
    tolerances: dict[str, OutputLimits]
    verdict: StatedVerdict
    plans: tuple[Plan, ...]
    graph: Graph | None
    reference: Reference | None
    licenses: tuple[str, ...]
    model_card: str
    provenance: str
    files: tuple[FileDigest, ...]
    notes: tuple[str, ...] = ()
    encryption: Encryption | None = None
    bill_of_materials: str = ""
    unordered: tuple[str, ...] = ()
    ignored: dict[str, float | str] = field(default_factory=dict)
    members: tuple[Member, ...] = ()

    def check(self) -> None:
        """Raise ValueError, naming the field, unless the fields fit each other."""
        for where, text in _texts(self.to_dict(), ""):
            if found := _CONTROL.search(text):
                raise ValueError(f"{where}: {text!r:.80}: character U+{ord(found[0]):04X}, and it has to be one line")
        names = [file.name for file in self.files]
        if odd := [name for name in names if not _is_plain(name) or names.count(name) > 1 or name in UNLISTED]:
            raise ValueError(f"files: {odd[0]!r} is twice there, or is no name for a file of a package")
        if missing := [name for name in self.mentioned if name not in names]:
            raise ValueError(f"files: {missing[0]!r} is not among them")
        for plan in self.plans:
            if self.content(plan.file).sha256 != plan.sha256:
                raise ValueError(f"plans: sha256 of {plan.file} is not that in files")
        called = [member.name for member in self.members]
        if odd := [name for name in called if not _is_plain(name) or called.count(name) > 1]:
            raise ValueError(f"members: {odd[0]!r} is twice there, or is no plain name")
        inputs, outputs = ({tensor.name for tensor in side} for side in (self.inputs, self.outputs))
        spoken = {
            "preprocessing": ({each.input for each in self.preprocessing}, inputs),
            "postprocessing": ({each.output for each in self.postprocessing}, outputs),
            "tolerances": (set(self.tolerances), outputs),
            "unordered": (set(self.unordered), outputs),
            "ignored": (set(self.ignored), outputs),
        }
        for where, (known_as, known) in spoken.items():
            if unknown := sorted(known_as - known):
                raise ValueError(f"{where}: the model has no {unknown[0]!r}")

    @property
    def mentioned(self) -> tuple[str, ...]:
        """The files that other fields speak of."""
        graph = () if self.graph is None else (self.graph.file, *self.graph.data)
        reference = () if self.reference is None else (self.reference.file,)
        others = [name for name in (self.model_card, self.provenance, self.bill_of_materials) if name]
        encrypted = (file.name for file in self.encrypted)
        members = (member.file for member in self.members)
        return (*(plan.file for plan in self.plans), *graph, *reference, *self.licenses, *others, *encrypted, *members)

    def file(self, name: str) -> FileDigest:
        """What is known of one file; ``name`` is among ``files``."""
        return next(file for file in self.files if file.name == name)

    def content(self, name: str) -> FileDigest:
        """What is known of the content of one file once it is decrypted; ``name`` is among ``files``."""
        return next((file for file in self.encrypted if file.name == name), None) or self.file(name)

    def is_encrypted(self, name: str) -> bool:
        """Whether one file is encrypted."""
        return any(file.name == name for file in self.encrypted)

    @property
    def encrypted(self) -> tuple[FileDigest, ...]:
        """What is inside the encrypted files."""
        return () if self.encryption is None else self.encryption.files

    def to_file(self) -> str:
        """The content of ``model.json``: equal records give equal text."""
        return to_text(self)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        plain: dict[str, Any] = json.loads(self.to_file())
        return plain

    @classmethod
    def parse(cls, data: bytes, path: Path) -> Model:
        """The record in the content of ``path``, which is for errors.

        Raises:
            InputError: it is of a newer schema, or is not such a record; the message names the field.
        """
        content = load_object(data, path)
        found = content.get("schema")
        if type(found) is not int or found < 1:
            raise InputError(f"{path}: schema: missing: not a package of trtpipe", "give a package")
        if found > SCHEMA:
            raise InputError(
                f"{path}: schema {found}, written by trtpipe {content.get('trtpipe', '?')!s:.20}; this one reads up to "
                f"{SCHEMA}",
                "install that version of trtpipe or a later one, or make the package again with this one",
            )
        model = read_record(cls, content, path)
        try:
            model.check()
        except ValueError as error:
            raise InputError(f"{path}: {error}", "make the package again; it is not edited by hand") from error
        return model


def _texts(value: object, where: str) -> Iterator[tuple[str, str]]:
    """Every text in plain JSON values that has to be one line, and the names of objects, each with its field."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield where, name
            if name not in _LONG:
                yield from _texts(item, f"{where}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{where}[{index}]")


def _is_plain(name: str) -> bool:
    """Whether it is a name of a file in the package's own folder, and no path, on any system."""
    odd = set(name) & set('\\:*?"<>|') or not name.isprintable() or len(name) > 200
    return name == PurePosixPath(name).name and name not in ("", "..") and not odd
