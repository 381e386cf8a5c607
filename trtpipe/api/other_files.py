"""What ``inspect`` says of the files that hold no record: saved outputs, tables for CI, pages, profiles and recipes."""

from __future__ import annotations

import json
import re
import zipfile
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from xml.etree import ElementTree as ET

from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.delivery.reader import Package
from trtpipe.delivery.record import Model
from trtpipe.errors import InputError, RecipeError
from trtpipe.pipeline.ownership import Written
from trtpipe.pipeline.publish import GENERATOR
from trtpipe.report.provenance import SCRIPT_HEAD, Provenance

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from trtpipe.artifact import Feed

OtherKind: TypeAlias = Literal[
    "outputs", "reference outputs", "JUnit report", "Markdown summary", "HTML report", "plot", "log", "external data",
    "profile", "recipe", "written files", "provenance", "reproduction script", "package", "hand-over",
    "finished hand-over", "command result",
]  # fmt: skip

_LOG = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+[+-]\d\d:\d\d ")
_PAGE = f'name="generator" content="{GENERATOR}"'.encode()
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)
#: The keys of every document that a command prints with ``--json``.
RESULT_KEYS = frozenset({"command", "exit_code"})
#: Bytes of a text that are looked at.
_MOST_TEXT = 4 << 20


def describe(path: Path, head: bytes) -> tuple[OtherKind, dict[str, str]] | None:
    """The kind of a file and what is in it, by name and value; ``None`` for a file of another kind.

    Args:
        head: its first bytes.

    Raises:
        InputError: it is of one of these kinds, and damaged.
    """
    text = head.lstrip()
    if text.startswith(b"<?xml"):
        return "JUnit report", _junit(path)
    if text.startswith(b"### trtpipe check"):
        lines = _text(path).splitlines()
        if len(lines) < 3:
            raise InputError(f"{path}: a damaged Markdown summary: it ends before its result", "write it again")
        return "Markdown summary", {"result": lines[2]}
    if text.lower().startswith(b"<!doctype html") and _PAGE in _text(path).encode():
        title = _TITLE.search(_text(path))
        return "HTML report", {"title": "" if title is None else title[1]}
    if head.startswith(SCRIPT_HEAD.encode()):
        return "reproduction script", {"first": _text(path).splitlines()[1].removeprefix("# ")}
    if head.startswith(b"\x89PNG"):
        return "plot", {"format": "PNG"}
    if _LOG.match(head):
        lines = _text(path).splitlines()
        return "log", {"lines": str(len(lines)), "first": lines[0], "last": lines[-1]}
    if path.suffix == ".data" and (graph := path.with_suffix("")).suffix == ".onnx" and graph.is_file():
        return "external data", {"graph": graph.name}
    return _settings(path) if path.suffix == ".toml" else None


def saved_outputs(path: Path) -> dict[str, str]:
    """The outputs that ``verify`` kept, artifact by artifact.

    Raises:
        InputError: they are damaged.
    """
    from trtpipe.accuracy.recording import load_outputs

    return {label: _shapes(feeds) for label, feeds in load_outputs(path).items()}


def other_json(path: Path, document: Any) -> tuple[OtherKind, dict[str, str]] | None:
    """The kind of a JSON document without a section of its own, and what is in it; ``None`` for one of another kind.

    Raises:
        InputError: it is of one of these kinds, and damaged.
    """
    if (written := written_files(document)) is not None:
        return "written files", written
    keys = set(document) if isinstance(document, dict) else set()
    if keys >= {"command", "created", "manifest"}:
        return "provenance", dict(_flat("", Provenance.read(path).to_dict()))
    if keys >= {"schema", "plans", "files"}:
        return "package", _package(Model.parse(path.read_bytes(), path))
    return handed_over(document)


def command_result(document: Mapping[str, Any]) -> dict[str, str]:
    """What a command printed with ``--json``, by name and value: its plain values, and those of its report."""
    report = document.get("report")
    values = {**(report if isinstance(report, dict) else {}), **document}
    return {name: str(value) for name, value in values.items() if isinstance(value, (str, int, float))}


def package(path: Path) -> dict[str, str]:
    """What is in a package, by name and value; its digests are checked.

    Raises:
        InputError: it is damaged.
    """
    opened = Package.opened(path)
    opened.verify()
    return _package(opened.model)


def _package(model: Model) -> dict[str, str]:
    plans = {f"plan {plan.file}": f"{plan.flavor} {plan.version} for {plan.target}" for plan in model.plans}
    reference = model.reference
    return {
        "model": " ".join(word for word in (model.name, model.version) if word),
        "precision": model.precision,
        "inputs": "\n".join(map(str, model.inputs)),
        "outputs": "\n".join(map(str, model.outputs)),
        "classes": str(len(model.classes)),
        "verdict": model.verdict.headline,
        **plans,
        **{f"member {member.name}": member.file for member in model.members},
        "reference": "none" if reference is None else f"{reference.feeds} {reference.data} feeds, {reference.runner}",
        "files": ", ".join(file.name for file in model.files),
    }


def written_files(document: Any) -> dict[str, str] | None:
    """Names and sizes in the record of what trtpipe put into a folder; ``None`` if ``document`` is something else.

    The record's seal is not looked at.
    """
    content = document.get("content") if isinstance(document, dict) else None
    if not isinstance(content, dict) or set(content) != {"files", "leaving"}:
        return None
    try:
        written = Written.model_validate(content)
    except ValueError:
        return None
    return {entry.name: f"{entry.size} bytes" for entry in written.files}


def handed_over(document: Any) -> tuple[OtherKind, dict[str, str]] | None:
    """What a hand-over is for, or what came of it; ``None`` if ``document`` is something else."""
    if not isinstance(document, dict) or not {"schema", "plan"} <= set(document):
        return None
    if {"target", "versions", "options"} <= set(document):
        return "hand-over", {name: str(document[name]) for name in ("target", "versions", "plan")}
    verdict = document.get("verdict")
    if not isinstance(verdict, dict) or not {"speed", "sha256"} <= set(document):
        return None
    said = {"plan": document["plan"], "result": verdict.get("headline", ""), "latency": document["speed"]}
    return "finished hand-over", {name: str(value) for name, value in said.items()}


def reference_outputs(path: Path) -> dict[str, str] | None:
    """Shapes of PyTorch's own outputs and of the feeds for them; ``None`` if the file holds something else.

    Arrays are not loaded.
    """
    import numpy as np

    found: dict[str, str] = {}
    feeds = set()
    try:
        with zipfile.ZipFile(path) as file:
            for member in file.namelist():
                index, side, name = member.removesuffix(".npy").split("/", 2)
                feeds.add(int(index))
                with file.open(member) as stream:
                    if np.lib.format.read_magic(stream) != (1, 0):
                        return None
                    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
                found.setdefault({"in": "input", "out": "output"}[side] + f" {name}", _shape(dtype, shape))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return {"feeds": str(len(feeds)), **found} if found else None


def _shape(dtype: object, shape: tuple[int, ...]) -> str:
    return f"{dtype}[{'x'.join(map(str, shape))}]"


def _shapes(feeds: list[Feed]) -> str:
    shown = ", ".join(
        f"{name} {_shape(value.dtype, value.shape)}" for name, value in (feeds[0] if feeds else {}).items()
    )
    return f"{len(feeds)} feeds: {shown}"


def _text(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(_MOST_TEXT)


def _junit(path: Path) -> dict[str, str]:
    text = _text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{path}: XML with definitions of its own is not read", "give a file that trtpipe check wrote")
    try:
        suite = ET.fromstring(text.encode())  # noqa: S314  without definitions there is nothing to expand
    except ET.ParseError as error:
        raise InputError(f"{path}: not valid XML: {error}", "give a file that trtpipe check --junit wrote") from error
    if suite.tag != "testsuite" or suite.get("name") != "trtpipe check":
        raise InputError(f"{path}: XML, but not of a kind that trtpipe writes", "give what trtpipe check --junit wrote")
    properties = {each.get("name", ""): each.get("value", "") for each in suite.iter("property")}
    failed = [case.get("name", "") for case in suite.iter("testcase") if case.find("failure") is not None]
    counts = {name: suite.get(name, "") for name in ("tests", "failures", "skipped")}
    return {**properties, **counts, "failed": "\n".join(failed)}


def _settings(path: Path) -> tuple[OtherKind, dict[str, str]]:
    """A deployment profile or a calibration recipe: the keys that are not at their defaults."""
    try:
        profile = DeploymentProfile.load(path)
    except RecipeError as error:
        try:
            recipe = CalibrationRecipe.load(path)
        except RecipeError:
            raise error from None
        return "recipe", dict(_flat("", recipe.model_dump(mode="json", exclude_defaults=True)))
    return "profile", dict(_flat("", profile.model_dump(mode="json", exclude_defaults=True)))


def _flat(prefix: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
