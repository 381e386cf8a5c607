"""Every Protocol has the classes that satisfy it listed where mypy checks them."""

from __future__ import annotations

import ast
from pathlib import Path

import trtpipe
from trtpipe.backends.base import BACKENDS

ROOT = Path(trtpipe.__file__).parent
LISTED = Path(__file__).with_name("protocols.py")

#: Protocols whose proof is an assignment inside the package itself.
PROVED_ELSEWHERE = {
    "Shareable",  # optional parts of a stage
    "Resumable",
    "Stoppable",  # an optional part of a listener
    "Memory",
    "Turn",  # functions, made where they are handed out
    "RemoteTurn",
    "Limits",  # arguments of OutputMetrics, in the package
    "ElementDifferences",
}


def annotations() -> dict[str, set[str]]:
    """Protocol -> names of the classes listed for it."""
    tree = ast.parse(LISTED.read_text(encoding="utf-8"))
    return {
        ast.unparse(node.annotation).removeprefix("tuple[").removeprefix("type[").rstrip("], ."): {
            name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)
        }
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and node.value is not None
    }


def test_every_protocol_is_listed():
    protocols = {
        node.name
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and "Protocol" in {ast.unparse(base) for base in node.bases}
    }
    assert protocols - PROVED_ELSEWHERE <= set(annotations())


def test_every_back_end_is_listed():
    assert annotations()["Backend"] == {where.partition(":")[2] for _, where in BACKENDS.values()}


def test_mypy_reads_the_list():
    settings = (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert 'files = ["trtpipe", "tests/protocols.py"]' in settings
