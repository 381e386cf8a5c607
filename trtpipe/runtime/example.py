"""``predict.py``, the example that a package can hold: ``trtpipe.runtime.predict``, as a program."""

from __future__ import annotations

from pathlib import Path

EXAMPLE = "predict.py"
_START = 'if __name__ == "__main__":\n    sys.exit(main())\n'


def write_example(folder: Path) -> Path:
    """Write it into ``folder``."""
    path = folder / EXAMPLE
    text = Path(__file__).with_name(EXAMPLE).read_text(encoding="utf-8")
    path.write_text(f"#!/usr/bin/env python3\n{text}\n\n{_START}", encoding="utf-8")
    return path
