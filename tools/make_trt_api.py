"""Write what a version of TensorRT offers to Python, for the tests that hold our calls against it.

    python tools/make_trt_api.py SOURCE... [-o tests/backends/trt_api]

SOURCE is an installed module (``tensorrt``, ``tensorrt_rtx``) or a ``.pyi`` stub of one, named like
``tensorrt-10.3.0.pyi``. Every class is listed with its bases and members; a method with its parameters and what it
returns. Nothing but names: no documentation, no code.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "tests" / "backends" / "trt_api"
#: Classes of the plug-in and the safety interfaces are of no use to us, and there are many.
_LEFT_OUT = re.compile(r"Plugin(?!Registry)|^ISafe|Calibrator|Algorithm|^Safety")


def from_stub(path: Path) -> dict[str, Any]:
    """The API in a stub file."""
    classes: dict[str, Any] = {}
    functions: dict[str, list[str]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            members: dict[str, Any] = {}
            for part in node.body:
                _take(part, members)
            classes[node.name] = {"bases": [ast.unparse(base) for base in node.bases], "members": members}
        elif isinstance(node, ast.FunctionDef):
            functions.setdefault(node.name, []).append(_signature(node))
    flavor, _, version = path.stem.partition("-")
    return _document(flavor, version, classes, functions)


def _take(part: ast.stmt, members: dict[str, Any]) -> None:
    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
        members[part.target.id] = None
    elif isinstance(part, ast.FunctionDef):
        plain = all(ast.unparse(mark) in {"typing.overload", "staticmethod"} for mark in part.decorator_list)
        if not plain:
            members[part.name] = None
        else:
            members.setdefault(part.name, []).append(_signature(part, skip_self=True))


def _signature(node: ast.FunctionDef, *, skip_self: bool = False) -> str:
    names = [argument.arg for argument in node.args.args]
    if skip_self and names[:1] == ["self"]:
        names = names[1:]
    return _written(names, ast.unparse(node.returns) if node.returns else "")


def from_module(name: str) -> dict[str, Any]:
    """The API of an installed module, from the signatures that pybind11 writes into its docstrings."""
    module = importlib.import_module(name)
    classes: dict[str, Any] = {}
    functions: dict[str, list[str]] = {}
    for key, value in vars(module).items():
        if inspect.isclass(value) and value.__module__.startswith(name.partition(".")[0]):
            bases = [base.__name__ for base in value.__bases__ if base.__module__ == value.__module__]
            classes[key] = {"bases": bases, "members": _members(value)}
        elif callable(value) and (found := _documented(key, value.__doc__, skip_self=False)):
            functions[key] = found
    return _document(name, module.__version__, classes, functions)


def _members(kind: type) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in vars(kind).items():
        if inspect.isclass(value):
            continue
        found = _documented(key, getattr(value, "__doc__", ""), skip_self=True) if callable(value) else None
        members[key] = found or None
    return members


def _documented(name: str, text: str | None, *, skip_self: bool) -> list[str]:
    """Every signature of ``name`` in a docstring of pybind11's."""
    found = []
    for line in (text or "").splitlines():
        match = re.match(rf"\s*(?:\d+\. )?{re.escape(name)}\((?P<parameters>.*)\) -> (?P<returns>.+)$", line)
        if match:
            names = [part.partition(":")[0].partition("=")[0].strip() for part in _split(match["parameters"])]
            names = names[1:] if skip_self and names[:1] == ["self"] else names
            found.append(_written(names, match["returns"].rpartition(".")[2]))
    return found


def _split(parameters: str) -> list[str]:
    """At the commas that stand in no brackets."""
    parts, depth = [""], 0
    for letter in parameters:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip() and part.strip() not in {"*", "/"}]


def _written(names: list[str], returns: str) -> str:
    kind = returns.rpartition(".")[2] if re.fullmatch(r"[\w.]+", returns) else ""
    return f"({', '.join(names)})" + ("" if kind in {"", "None", "Any", "object"} else f" -> {kind}")


def _document(flavor: str, version: str, classes: dict[str, Any], functions: dict[str, list[str]]) -> dict[str, Any]:
    kept = {name: classes[name] for name in sorted(classes) if not _LEFT_OUT.search(name)}
    for entry in kept.values():
        entry["members"] = {
            name: sorted(set(value)) if value else None
            for name, value in sorted(entry["members"].items())
            if not name.startswith("_")
        }
        entry["bases"] = [base for base in entry["bases"] if base in kept]
    own = {name: sorted(set(found)) for name, found in sorted(functions.items())}
    return {"flavor": flavor, "version": version, "classes": kept, "functions": own}


def render(api: dict[str, Any]) -> str:
    """One line a class, so that a change of one shows as a change of one line."""
    lines = [f' "{key}": {json.dumps(api[key])},' for key in ("flavor", "version", "functions")]
    classes = ",\n".join(f'  "{name}": {json.dumps(entry)}' for name, entry in api["classes"].items())
    return "\n".join(["{", *lines, ' "classes": {', classes, " }", "}"]) + "\n"


def main() -> None:
    """Write one snapshot a source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="+")
    parser.add_argument("-o", "--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    for source in arguments.source:
        api = from_stub(Path(source)) if source.endswith(".pyi") else from_module(source)
        (arguments.out / f"{api['flavor']}-{api['version']}.json").write_text(render(api), encoding="utf-8")


if __name__ == "__main__":
    main()
