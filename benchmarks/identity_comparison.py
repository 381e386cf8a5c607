"""Compare two recordings of one artifact field by field, but for what a refactoring may change; see ``identity.py``."""

from __future__ import annotations

import fnmatch
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

#: Names that changed, from old to new; see ``--renamed``.
RENAMED: Mapping[str, str] = {
    "account": "data_summary",
    "accounts": "data_summaries",
    "settling": "convergence",
    "moved": "change",
    "enough": "samples_needed",
    "unfit": "not_quantizable",
    "extents": "tensor_ranges",
    "extents.json": "tensor_ranges.json",
    "broke": "failing_stage",
    "repairs": "corrections",
    "repairs.high": "kept",
    "repair": "correction",
    "flavour": "flavor",
}
#: Fields that may differ, as FILE:PATH with shell patterns; of names that changed the old one or the new one.
IGNORED = (
    "*:schema_version",
    "*.schema_version",
    "manifest.json:artifacts.*.key",
    "manifest.json:artifacts.*.digest",  # of files that are compared themselves
    "manifest.json:artifacts.*.sha256",
    "manifest.json:artifacts.*.size",
    "manifest.json:trtpipe",
    "document.json:out",
    "document.json:steps.*.seconds",
    "document.json:steps.*.key",
    "document.json:steps.*.artifact.digest",
    "document.json:steps.*.artifact.size",
    "document.json:steps.*.artifact.path",
    "document.json:steps.*.artifact.files.*.sha256",
    "document.json:steps.*.artifact.files.*.size",
    "document.json:latency",  # is latency.json
    "latency.json:engines.*",  # follows from what is known of the engine
    "latency.json:machine",
    *(
        f"latency.json:measurements.*.{name}"
        for name in (
            "min", "max", "mean", "median", "p90", "p95", "p99", "cov", "iterations", "throughput_qps",
            "wall_seconds", "windows", "spread", "stable", "notes",
        )
    ),
    "*.plan.json:build_seconds",
    "*.plan.json:digests",
    "*.plan.json:report.layers.*.tactic",
)  # fmt: skip
#: Sentences for people, in the same way.
TEXT = (
    "*:notes.*", "*.notes.*", "*.note", "*:warnings.*", "*.warnings.*", "*:reasons.*", "*.reasons.*", "*.summary",
    "*.because", "*not_run.*", "*:error.*", "*:data", "*.data", "*.source",
)  # fmt: skip
REASON = "*.reason"
#: What is told of engines and latency: it follows from what is compared elsewhere, or from the clock.
_FOLLOWING = re.compile(r"(engine|latency)\b")


@dataclass(frozen=True)
class Difference:
    """A field that is not what it was: where, and both values, shortened."""

    path: str
    old: str
    new: str


_ABSENT = object()


@dataclass
class Comparison:
    """Compares values under the rules of the module, and collects how sentences were reworded.

    Attributes:
        renamed: new names by old names, or by the last parts of the old path.
        ignored: names of fields that may differ anywhere.
        reworded: new sentences by old ones.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    reworded: dict[str, str] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict)

    def renamed_file(self, name: str) -> str:
        """What a file is called now."""
        return self.renamed.get(name, name)

    def json(self, file: str, old: object, new: object) -> list[Difference]:
        """Differences between two JSON values, by field."""
        return list(self._values(file, (), (), old, new))

    def _values(
        self, file: str, before: tuple[str, ...], after: tuple[str, ...], old: object, new: object
    ) -> Iterator[Difference]:
        path = f"{file}:{'.'.join(after)}"
        if self._is_ignored(file, before, after):
            return
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from self._mappings(file, before, after, old, new)
        elif isinstance(old, list) and isinstance(new, list):
            if matches(file, (*before, ""), (*after, ""), TEXT):
                old, new = without_following(old), without_following(new)
            if len(old) != len(new):
                yield Difference(path, f"{len(old)}: {short(old)}", f"{len(new)}: {short(new)}")
            for number, (one, other) in enumerate(zip(old, new, strict=False)):
                yield from self._values(file, (*before, str(number)), (*after, str(number)), one, other)
        elif isinstance(old, str) and isinstance(new, str):
            yield from self._strings(file, before, after, old, new)
        elif type(old) is not type(new) or repr(old) != repr(new):  # repr: nan is itself, 0.0 is not -0.0
            yield Difference(path, short(old), short(new))

    def _mappings(
        self,
        file: str,
        before: tuple[str, ...],
        after: tuple[str, ...],
        old: Mapping[str, object],
        new: Mapping[str, object],
    ) -> Iterator[Difference]:
        names = {self._new_name((*before, name)): name for name in old}
        for name in dict.fromkeys((*names, *new)):
            was = names.get(name)
            one = _ABSENT if was is None else old[was]
            yield from self._values(file, (*before, was or name), (*after, name), one, new.get(name, _ABSENT))

    def _strings(
        self, file: str, before: tuple[str, ...], after: tuple[str, ...], old: str, new: str
    ) -> Iterator[Difference]:
        path = f"{file}:{'.'.join(after)}"
        if matches(file, before, after, (REASON,)):
            kind, known = pattern_of(old), pattern_of(new)
            if self._reasons.setdefault(kind, known) != known:
                yield Difference(path, old, f"{new} (elsewhere: {self._reasons[kind]})")
            self._reword(old, new)
        elif matches(file, before, after, TEXT):
            self._reword(old, new)
        elif self.renamed.get(old, old) != new:
            yield Difference(path, short(old), short(new))

    def _reword(self, old: str, new: str) -> None:
        kind, known = pattern_of(old), pattern_of(new)
        if kind != known:
            self.reworded[kind] = known

    def _new_name(self, path: tuple[str, ...]) -> str:
        for start in range(len(path)):
            found = self.renamed.get(".".join(path[start:]))
            if found is not None:
                return found
        return path[-1]

    def _is_ignored(self, file: str, before: tuple[str, ...], after: tuple[str, ...]) -> bool:
        return bool(self.ignored & {*before[-1:], *after[-1:]}) or matches(file, before, after, IGNORED)

    def npz(self, file: str, old: bytes, new: bytes) -> list[Difference]:
        """Differences between two archives of arrays; an array of bytes that is a JSON document is compared as one."""
        mine, theirs = arrays_of(old), arrays_of(new)
        found: list[Difference] = []
        names = {self.renamed.get(name, name): name for name in mine}
        for name in dict.fromkeys((*names, *theirs)):
            one, other = mine.get(names.get(name, "")), theirs.get(name)
            if one is None or other is None:
                found.append(Difference(f"{file}:{name}", described(one), described(other)))
            elif (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes()):
                continue
            elif one.dtype == np.uint8 and one[:1].tobytes() == other[:1].tobytes() == b"{":
                found += self.json(file, json.loads(one.tobytes()), json.loads(other.tobytes()))
            else:
                found.append(Difference(f"{file}:{name}", described(one), described(other)))
        return found

    def engine(self, file: str, seen: Iterable[object], new: object) -> list[Difference]:
        """Differences between what is known of an engine and of the old engine that is nearest to it."""
        return min((self.json(file, unnumbered(old), unnumbered(new)) for old in seen), key=len)


def unnumbered(engine: object) -> object:
    """Without the numbers that the builder gives its own tensors, which differ from build to build."""
    made: object = json.loads(re.sub(r"(?<=__mye)\d+|(?<=_)\d+(?=_myl\d)", "#", json.dumps(engine)))
    return made


def without_following(values: list[Any]) -> list[Any]:
    return [value for value in values if not (isinstance(value, str) and _FOLLOWING.match(value))]


def matches(file: str, before: tuple[str, ...], after: tuple[str, ...], patterns: Iterable[str]) -> bool:
    """Whether a path, with its old names or its new ones, is among the patterns."""
    paths = {f"{file}:{'.'.join(before)}", f"{file}:{'.'.join(after)}"}
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns for path in paths)


def pattern_of(sentence: str) -> str:
    """A sentence without its numbers and quoted names."""
    return re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", "#", re.sub(r"'[^']*'", "'...'", sentence))


def short(value: object) -> str:
    text = "absent" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def arrays_of(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def described(array: np.ndarray | None) -> str:
    if array is None:
        return "absent"
    return f"{array.dtype}{list(array.shape)} {short(array.reshape(-1)[:6].tolist())}"


def onnx_differences(file: str, old: bytes, new: bytes) -> list[Difference]:
    """Where two graphs differ, message by message."""
    found = list(_messages(f"{file}:", onnx.load_from_string(old), onnx.load_from_string(new)))
    return found or [Difference(file, f"{len(old)} bytes", f"{len(new)} bytes, the same messages written otherwise")]


def _messages(path: str, old: Any, new: Any) -> Iterator[Difference]:
    """``old`` and ``new`` are two protocol buffers of one type."""
    for field_ in old.DESCRIPTOR.fields:
        one, other = getattr(old, field_.name), getattr(new, field_.name)
        if one == other:
            continue
        where = f"{path}{field_.name}"
        if hasattr(one, "DESCRIPTOR"):
            yield from _messages(f"{where}.", one, other)
        elif isinstance(one, (str, bytes, int, float)):
            yield Difference(where, repr(one)[:100], repr(other)[:100])
        elif len(one) != len(other):
            yield Difference(where, f"{len(one)} of them", f"{len(other)} of them")
        elif field_.message_type is None:
            yield Difference(where, repr(list(one))[:100], repr(list(other))[:100])
        else:
            for number, (mine, theirs) in enumerate(zip(one, other, strict=True)):
                if mine != theirs:
                    yield from _messages(f"{where}[{number} {getattr(mine, 'name', '')}].", mine, theirs)
