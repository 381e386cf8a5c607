"""Samples from tar shards in WebDataset layout: files of one name and several extensions are one sample.

``0001.jpg`` feeds a model with one input, preprocessed as the image table says; ``0001.npy`` feeds it as it is;
``0001.<input>.npy`` feeds one input of several; ``0001.cls`` holds the class number. Other files are ignored.
Members are read as a stream and never extracted; only regular files are accepted.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import zlib
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby, product
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.config.recipe import ImageSettings
from trtpipe.data.bad_samples import BadSample, try_sample
from trtpipe.data.batching import BatchedDataset
from trtpipe.data.input_checks import checked, free_batch, numpy_type, static_batch
from trtpipe.data.npz import read_header, reading
from trtpipe.data.pixels import load_tensor, require_pillow
from trtpipe.data.sample import ContentDigests, Sample
from trtpipe.data.selection import select
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from trtpipe.artifact import Feed, IOContract
    from trtpipe.config.recipe import DataSettings
    from trtpipe.data.sample import Dataset

#: Extensions of tar files, in lower case; all but the first are compressed.
_SUFFIXES = (".tar", ".tar.gz", ".tgz")

#: Of files that hold a class.
_LABEL = "cls"
#: Bytes a single member may have.
_MOST_BYTES = 1 << 30
#: Bytes a header of a member may have: more than any name needs.
_MOST_HEADER = 1 << 20

_HEADER_TYPES = {
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
}

_TAR_ERRORS = (OSError, EOFError, ValueError, tarfile.TarError, zlib.error)
_TAR_REMEDY = "give tar files, plain or compressed with gzip (.tar.gz)"
_IMAGES = frozenset({"png", "jpg", "jpeg", "bmp", "webp", "gif"})
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 100_000


@dataclass(frozen=True)
class _TarEntry:
    """One regular file of a tar: its path up to the first dot of its name, which all files of a sample share, and what
    follows that dot, in lower case; ``content`` is empty if only headers are read.
    """

    key: str
    extension: str
    content: bytes


def recognizes(source: str) -> bool:
    """Whether ``source`` is a tar file, plain or gzipped, or several: ``shard-{000..012}.tar`` or ``shards/*.tar``."""
    return source.lower().endswith(_SUFFIXES) and bool(shard_paths(source))


def shard_paths(source: str) -> tuple[Path, ...]:
    """The existing files that ``source`` names: a range of numbers as written, a ``*`` in sorted order.

    Raises:
        InputError: one file of a range is missing.
    """
    if "*" in source:
        folder = Path(source).parent
        return tuple(sorted(path for path in folder.glob(Path(source).name) if path.is_file()))
    paths = [Path(text) for text in _expanded(source)]
    missing = [path for path in paths if not path.is_file()]
    if missing and len(missing) < len(paths):
        raise InputError(f"{source}: {missing[0]} is missing", "name existing shards only")
    return () if missing else tuple(paths)


def _expanded(source: str) -> list[str]:
    """``a-{08..10}`` as ``a-08``, ``a-09``, ``a-10``."""
    pieces = _RANGE.split(source)  # text, first, last, text, first, last, ..., text
    spans = zip(pieces[1::3], pieces[2::3], strict=True)
    numbers = [[f"{n:0{len(a)}}" for n in range(int(a), min(int(b), int(a) + _MOST_SHARDS) + 1)] for a, b in spans]
    texts = pieces[::3]
    return ["".join(a + b for a, b in zip(texts, (*chosen, ""), strict=True)) for chosen in product(*numbers)]


def open_shards(data: DataSettings, contract: IOContract) -> Dataset:
    """Samples from tar shards, read as a stream. One pass over the headers counts them.

    Raises:
        InputError: a shard is damaged or unsafe, there are no or too few samples, or they do not fit the model.
        HostError: there are images, and Pillow is not installed.
    """
    shards = shard_paths(data.source)
    order = [(shard, key, extensions) for shard in shards for key, extensions in _index(shard)]
    selection = select(len(order), data, static_batch(contract), data.source)
    chosen = [order[index][:2] for index in selection.indices]
    pictured = any(_IMAGES & extensions for _, _, extensions in order)
    if pictured:
        require_pillow()
    settings = data.image or ImageSettings()
    expected = free_batch(contract)

    def sample(name: str, entries: list[_TarEntry]) -> Sample:
        return checked(_sample(entries, contract, settings, name), expected, name)

    def read() -> Generator[Sample | BadSample, None, None]:
        for position, (name, entries) in enumerate(_entries(chosen)):
            yield try_sample(position, partial(sample, name, entries))

    def content() -> ContentDigests:
        inputs, labels, labeled = hashlib.sha256(), hashlib.sha256(), False
        for _, entries in _entries(chosen):
            for entry in sorted(entries, key=lambda entry: entry.extension):
                is_label = entry.extension == _LABEL
                digest = labels if is_label else inputs
                digest.update(f"{entry.extension}\0{len(entry.content)}\0".encode())
                digest.update(entry.content)
                labeled |= is_label
            for digest in (inputs, labels):
                digest.update(b"\n")
        return ContentDigests(inputs.hexdigest(), labels.hexdigest() if labeled else "")

    return BatchedDataset(
        title=f"{len(shards)} tar shard(s)",
        selection=selection,
        read=read,
        content=content,
        preprocessing=settings if pictured else None,
    )


def _index(shard: Path) -> list[tuple[str, frozenset[str]]]:
    """(key, extensions) of every sample of a shard, in its order; the files of a sample are adjacent."""
    found = [
        (key, frozenset(entry.extension for entry in group))
        for key, group in groupby(_read_tar(shard, None), key=lambda entry: entry.key)
    ]
    seen: set[str] = set()
    for key, _ in found:
        if key in seen:
            raise InputError(f"{shard}: the files of sample {key!r} are not adjacent", "pack the shard sorted by name")
        seen.add(key)
    return found


def _entries(chosen: Iterable[tuple[Path, str]]) -> Generator[tuple[str, list[_TarEntry]], None, None]:
    """(name for error messages, files) of the selected samples, shard by shard."""
    for shard, group in groupby(chosen, key=lambda place: place[0]):
        wanted = frozenset(key for _, key in group)
        with closing(_read_tar(shard, wanted)) as entries:
            for key, files in groupby(entries, key=lambda entry: entry.key):
                yield f"{shard}: sample {key!r}", list(files)


def _sample(entries: list[_TarEntry], contract: IOContract, settings: ImageSettings, where: str) -> Sample:
    inputs = {spec.name.lower(): spec for spec in contract.inputs}
    only = contract.inputs[0] if len(contract.inputs) == 1 else None
    feed: Feed = {}
    labels = None
    for entry in entries:
        named = inputs.get(entry.extension.removesuffix(".npy")) if entry.extension.endswith(".npy") else None
        spec = named or only
        if entry.extension == _LABEL:
            labels = _label(entry.content, where)
        elif entry.extension == "npy" or named is not None:
            if spec is not None:
                feed[spec.name] = _array(entry.content, f"{where}: {entry.extension}")
        elif entry.extension in _IMAGES and only is not None:
            raw = numpy_type(only, where) == np.uint8
            feed[only.name] = load_tensor(Path(where), settings.transform(), raw, io.BytesIO(entry.content))
    return Sample({name: value[np.newaxis] for name, value in feed.items()}, labels)


def _array(content: bytes, where: str) -> np.ndarray:
    stream = io.BytesIO(content)
    with reading(Path(where)):
        header = read_header(stream, len(content), where)
        flat = np.frombuffer(content, header.dtype, offset=header.length)
        return flat.reshape(header.shape, order="F" if header.fortran else "C")


def _label(content: bytes, where: str) -> np.ndarray:
    text = content[:32].decode("ascii", "replace").strip()
    if not text.isdigit():
        raise InputError(f"{where}: the class is {text!r}", "store one integer in .cls files")
    return np.array([int(text)])


def _read_tar(path: Path, wanted: frozenset[str] | None) -> Generator[_TarEntry, None, None]:
    """The files of a tar, plain or gzipped, in its order, one in memory at a time; nothing is written to the disk.

    Args:
        wanted: keys whose content is read, the others are skipped; ``None`` for headers only.

    Raises:
        InputError: the tar is damaged or compressed otherwise, or has a link, a device, or a path to outside.
    """
    with reading(path, _TAR_ERRORS, _TAR_REMEDY), _opened(path) as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # else it keeps the header of every file
            if member.isdir():
                continue
            name = _safe_name(member, path)
            stem, _, extension = name.name.partition(".")
            key = str(name.with_name(stem)) if stem else str(name)
            content = b""
            if wanted is not None:
                if key not in wanted:
                    continue
                stream = archive.extractfile(member)
                content = stream.read(member.size) if stream is not None else b""
                if len(content) != member.size:
                    raise EOFError(f"{member.name!r} ends early")
            yield _TarEntry(key, extension.lower(), content)


def _safe_name(member: tarfile.TarInfo, path: Path) -> PurePosixPath:
    name = PurePosixPath(member.name)
    where = f"{path}: member {member.name!r}"
    if not member.isreg() or member.issparse():
        raise InputError(f"{where} is not a regular file", "pack plain files only: no links, devices or sparse files")
    if name.is_absolute() or ".." in name.parts or not name.name:
        raise InputError(f"{where} is a path outside the archive", "pack files under relative names without '..'")
    if member.size > _MOST_BYTES:
        raise InputError(f"{where} has {member.size} bytes, more than a sample may have", "store smaller samples")
    return name


class _Bounded(tarfile.TarInfo):
    """A member with a bounded header: a small gzip can hold a header of gigabytes."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADER_TYPES and self.size > _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        # documented as an extension point
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    with ExitStack() as stack:
        if path.name.lower().endswith(_SUFFIXES[1:]):
            stream = stack.enter_context(gzip.open(path, "rb"))
            yield stack.enter_context(tarfile.open(fileobj=stream, mode="r|", tarinfo=_Bounded))
        else:
            yield stack.enter_context(tarfile.open(path, "r:", tarinfo=_Bounded))
