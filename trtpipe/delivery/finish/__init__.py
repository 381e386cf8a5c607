"""The sources of ``finish.py``, which builds a hand-over on a machine that has Python 3.8, numpy and TensorRT alone.

They are modules here, so that they are checked and tested as all others, and are joined to one file where a hand-over
is written. Their own imports are of the standard library and numpy. How outputs are compared and how
reference arrays are read is said once, in modules of ``trtpipe.accuracy``, ``trtpipe.config`` and
``trtpipe.reference`` that are parts as they stand.
"""

from __future__ import annotations

import ast
from pathlib import Path

_FOLDER = Path(__file__).parent
_PARTS = (
    _FOLDER / "common.py",
    _FOLDER.parents[1] / "config" / "limits.py",
    *(_FOLDER.parents[1] / "accuracy" / f"{name}.py" for name in ("alignment", "departures", "output_metrics")),
    _FOLDER.parents[1] / "reference" / "feed_archive.py",
    *(_FOLDER / f"{name}.py" for name in ("judge", "engine", "build")),
)
_NUMPY = "import numpy as np"
#: numpy comes last, where what is missing can be said. 6: this machine lacks something.
_CHECKED = f"""
try:
    {_NUMPY}
except ImportError as missing:
    sys.stderr.write(f"error: numpy cannot be imported: {{missing}}\\n  try: install it for {{sys.executable}}\\n")
    sys.exit(6)"""
_START = 'if __name__ == "__main__":\n    sys.exit(main())'


def source() -> str:
    """``finish.py``: the docstring of the last part, the imports of all, and then their code."""
    imports: dict[str, set[str]] = {}
    bodies, title = [], ""
    for path in _PARTS:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        heads = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in heads:
            module = str(node.module) if isinstance(node, ast.ImportFrom) else ""
            if not module.startswith("trtpipe"):
                imports.setdefault(module, set()).update(ast.unparse(ast.Import([each])) for each in node.names)
        # what is for type checkers alone follows the imports
        last = max(node.end_lineno or 0 for node in [*heads, *filter(_is_for_type_checkers, tree.body)])
        bodies.append("\n".join(text.splitlines()[last:]).strip())
        title = ast.get_docstring(tree, clean=False) or ""
    return "\n\n\n".join((f'#!/usr/bin/env python3\n"""{title}"""\n\n{_header(imports)}', *bodies, _START)) + "\n"


def _is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _header(imports: dict[str, set[str]]) -> str:
    """Import statements, by module ("" for whole modules) the statements that import one name each."""
    imports.get("typing", set()).discard("import TYPE_CHECKING")
    lines = sorted(imports.pop("", set()) - {_NUMPY})
    for module, names in sorted(imports.items(), key=lambda pair: pair[0] == "__future__"):
        listed = ", ".join(sorted(name.removeprefix("import ") for name in names))
        lines = [f"from {module} import {listed}", *lines]
    return "\n".join((*lines, _CHECKED))
