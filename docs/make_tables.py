"""Write the tables of ``docs/targets.md`` and ``docs/building.md`` from the code: ``python docs/make_tables.py``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from trtpipe.backends.trt.error_guide import GUIDE
from trtpipe.backends.trt.options import OPTIONS
from trtpipe.config.target import TABLE_DATE, TARGETS

HERE = Path(__file__).parent
PAGES = ("targets.md", "building.md")


def targets() -> list[str]:
    """Every target: names, types, and which flavor builds for it."""
    rows = ["| target | GPUs | computes in | TensorRT | TensorRT-RTX |", "|---|---|---|---|---|"]
    for target in TARGETS:
        names = ", ".join(f"`{name}`" for name in target.aliases)
        types = ", ".join(map(str, target.formats)) + ", DLA" * target.dla
        rows.append(f"| `{target}` | {target.family}: {names} | {types} | {target.tensorrt} | {target.rtx or 'none'} |")
    return [*rows, "", f"As of {TABLE_DATE}."]


def options() -> list[str]:
    """Every builder option, and what TensorRT-RTX makes of it."""
    rows = ["| key | trtexec | TensorRT-RTX |", "|---|---|---|"]
    for option in OPTIONS:
        made = f"no effect: {option.ignored}" if option.ignored else "takes it"
        if option.refused:
            made = f"refuses it: {option.refused}"
        rows.append(f"| `{option.name}` | `{option.trtexec}` | {made} |")
    return rows


def guide() -> list[str]:
    """Every failure the guide knows."""
    rows = ["| TensorRT says | because | what helps |", "|---|---|---|"]
    rows += [f"| `{_cell(advice.pattern)}` | {advice.cause} | {advice.remedy} |" for advice in GUIDE]
    return rows


def _cell(pattern: str) -> str:
    return pattern.replace("|", "\\|")


TABLES: Mapping[str, Callable[[], list[str]]] = {"targets": targets, "options": options, "guide": guide}


def render(page: str) -> str:
    """The page with its tables as the code has them now."""

    def table(match: re.Match[str]) -> str:
        return "\n".join([match[1], *TABLES[match[2]](), match[3]])

    text = (HERE / page).read_text(encoding="utf-8")
    return re.sub(r"(<!-- begin (\w+) -->)\n.*?(<!-- end \2 -->)", table, text, flags=re.DOTALL)


if __name__ == "__main__":
    for name in PAGES:
        (HERE / name).write_text(render(name), encoding="utf-8")
