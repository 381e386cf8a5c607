"""Build the documentation as a site in ``build/site``: ``python tools/make_site.py``.

Needs Zensical (``pip install '.[docs]'``). Every warning is an error: a link that leads nowhere, a missing anchor. To
read it: ``python -m http.server --directory build/site``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Where pages, and the files that they link to, come from.
PARTS = ("benchmarks", "calib", "docs", "examples", "profiles")
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.npz", "*.safetensors")


def stage(folder: Path) -> None:
    """Copy pages and what they link to into ``folder``, in the places that they have in the repository."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=_NOT_COPIED)
    for path in ROOT.iterdir():
        if path.is_file() and (path.suffix in {".md", ".toml", ".yml"} or path.name in {"Dockerfile", "LICENSE"}):
            shutil.copy(path, folder / path.name)
    for name in (".editorconfig", ".pre-commit-config.yaml", ".pre-commit-hooks.yaml"):
        shutil.copy(ROOT / name, folder / name)


def main() -> int:
    """Stage the pages, and build the site strictly."""
    stage(ROOT / "build" / "site-pages")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
