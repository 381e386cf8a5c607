"""Write the hashed locks in ``requirements/``: ``make lock``, after a change of constraints.txt or of an ``.in`` file.

constraints.txt says which versions are installed; a lock says which files, by the sha256 that the index gives for
each of them. It holds for every platform and every Python that trtpipe supports.

- ``lock.txt``: the pins of constraints.txt. PyTorch has the hashes of the index's wheels and of the CPU wheels of
  ``torch-cpu.txt``.
- ``torch-cuda.txt``: what the index's wheel of PyTorch needs besides, given to pip as constraints; the CPU wheel needs
  none of it.
- ``build.txt``, ``tools.txt``: pip and setuptools; the tools of a maintainer.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
#: The extras of pyproject.toml that ``make venv`` installs.
EXTRAS = (
    "torch",
    "rtx",
    "images",
    "hdf5",
    "plots",
    "store",
    "farm",
    "farm-tests",
    "trust",
    "pkcs11",
    "examples",
    "docs",
    "dev",
)
_HEADER = "# Written by tools/make_lock.py (`make lock`): change {source} instead.\n\n"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_HASH = re.compile(r"--hash=(\S+)")


def main() -> None:
    """Write all four."""
    for name in ("build", "tools"):
        _write(f"{name}.txt", f"requirements/{name}.in", _compile(FOLDER / f"{name}.in", "--allow-unsafe"))
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    resolved = _compile(ROOT / "pyproject.toml", *extras, "-c", str(ROOT / "constraints.txt"))
    pinned = _names((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    kept = [block for block in resolved if _names([block]) <= pinned]
    added = [
        block for block in resolved if _names([block]).isdisjoint(pinned) and "'win32'" not in block.split("\\")[0]
    ]
    _write("lock.txt", "constraints.txt", _with_cpu_wheels(kept))
    _write("torch-cuda.txt", "constraints.txt", added)


def _compile(source: Path, *words: str) -> list[str]:
    """One block a pin, with its marker and hashes."""
    command = [
        str(Path(sys.executable).with_name("uv")), "pip", "compile", str(source), *words, "--no-config", "--no-header",
        "--no-annotate", "--quiet", "--no-python-downloads", "--universal", "--python-version", "3.10",
        "--generate-hashes",
    ]  # fmt: skip
    text = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if text.returncode:
        raise SystemExit(f"{source.name} cannot be resolved:\n{text.stderr}")
    return re.findall(r"^\S.*(?:\n[ \t].*)*", text.stdout, re.MULTILINE)


def _names(lines: list[str]) -> set[str]:
    matches = (_NAME.match(line) for line in lines)
    return {re.sub(r"[._-]+", "-", match[0]).lower() for match in matches if match}


def _with_cpu_wheels(blocks: list[str]) -> list[str]:
    """The blocks; a pin of ``torch-cpu.txt`` gets the hashes there as well."""
    more: dict[str, list[str]] = {}
    for line in (FOLDER / "torch-cpu.txt").read_text(encoding="utf-8").splitlines():
        if found := _HASH.findall(line):
            more.setdefault(line.split()[0], []).extend(found)
    pins = {block.split()[0]: number for number, block in enumerate(blocks)}
    if missing := sorted(more.keys() - pins.keys()):
        raise SystemExit(
            f"requirements/torch-cpu.txt has hashes of {', '.join(missing)}, which constraints.txt does not pin"
        )
    made = list(blocks)
    for pin, hashes in more.items():
        head, *_ = made[pins[pin]].split(" \\\n")
        every = sorted({*_HASH.findall(made[pins[pin]]), *hashes})
        made[pins[pin]] = " \\\n".join([head, *(f"    --hash={one}" for one in every)])
    return made


def _write(name: str, source: str, blocks: list[str]) -> None:
    (FOLDER / name).write_text(_HEADER.format(source=source) + "\n".join(blocks) + "\n", encoding="utf-8")
    sys.stdout.write(f"requirements/{name}: {len(blocks)} pins\n")


if __name__ == "__main__":
    main()
