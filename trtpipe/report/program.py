"""Summary of a PyTorch program, read from its ``.pt2`` archive without PyTorch."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from typing import TYPE_CHECKING

from pydantic import ValidationError

from trtpipe.artifact import Record
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

#: What PyTorch writes into ``<name>/archive_format``.
_FORMAT, _WORD = "/archive_format", b"pt2"
_GRAPH, _WEIGHTS = "/models/model.json", ("/data/weights/", "/data/constants/")
_MOST_JSON = 256 << 20


class ProgramSummary(Record):
    """An exported program.

    Attributes:
        torch: the version of PyTorch that wrote it.
        nodes: calls in its graph.
        operators: operator -> number of calls.
        weight_bytes: of parameters, buffers and constants.
    """

    torch: str
    nodes: int
    operators: dict[str, int]
    weight_bytes: int


def is_program(path: Path) -> bool:
    """Whether a zip archive is a ``.pt2`` file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(_FORMAT) and _read(archive, name) == _WORD for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError):
        return False


def summarize_program(path: Path) -> ProgramSummary:
    """Describe the program at ``path``.

    Raises:
        InputError: the archive is damaged, or of a form that is not known here.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            graph = next(name for name in archive.namelist() if name.endswith(_GRAPH))
            content = json.loads(_read(archive, graph))
            sizes = {
                each.filename: each.file_size for each in archive.infolist() if not each.filename.endswith(".json")
            }
        targets = Counter(node["target"] for node in content["graph_module"]["graph"]["nodes"])
        return ProgramSummary(
            torch=content["torch_version"],
            nodes=targets.total(),
            operators=dict(targets),
            weight_bytes=sum(size for name, size in sizes.items() if any(part in name for part in _WEIGHTS)),
        )
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{path}: a damaged .pt2 archive ({error})", "export the program again") from error
    except (StopIteration, ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"{path}: a .pt2 archive of an unknown form", "export it again with PyTorch 2.9 or newer"
        ) from error


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """One file of an archive; a very large one is refused (zip bomb)."""
    if archive.getinfo(name).file_size > _MOST_JSON:
        raise zipfile.BadZipFile(f"{name} is too large")
    return archive.read(name)
