"""The commands of an example's README, run as they stand."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def prepared(folder: Path) -> Path:
    """A folder that looks like the root of the repository, but for what is built in it.

    Copies: through a link, ``../../build`` of a recipe would be the repository's own.
    """
    for name in ("examples", "calib", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "LICENSE", folder)
    return folder


def run_commands(example: str, folder: Path, block: int = 0) -> list[str]:
    """Standard output of each command of a ``sh`` block, run in ``folder``; each has to succeed."""
    text = (ROOT / "examples" / example / "README.md").read_text(encoding="utf-8")
    found = []
    for line in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)[block].splitlines():
        program, *words = shlex.split(line)
        module = {"trtpipe": ["-m", "trtpipe"], "python": []}[program]
        done = subprocess.run(
            [sys.executable, *module, *words], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        found.append(done.stdout)
    return found


def printed(example: str) -> list[str]:
    """What a README shows in blocks without a language."""
    text = (ROOT / "examples" / example / "README.md").read_text(encoding="utf-8")
    return [block.strip() for language, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) if not language]
