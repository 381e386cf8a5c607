"""``trtpipe doctor``: what this machine can do, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.cli.options import command
from trtpipe.cli.results import print_document
from trtpipe.cli.tables import facts, line, table
from trtpipe.cli.text import emit
from trtpipe.config.formats import FORMATS
from trtpipe.config.units import format_bytes
from trtpipe.errors import HostError

if TYPE_CHECKING:
    from trtpipe import Diagnosis
    from trtpipe.cli.session import Session

_PRODUCTS = 3


@command()
def doctor(session: Session) -> int:
    """Show what this machine can do, and how to install what is missing.

    Exit code 6 if something is missing that every build needs; what only some builds need is listed only.
    """
    import trtpipe

    found = trtpipe.diagnose(session.settings)
    code = 0 if found.ready else HostError.exit_code
    if session.json:
        return print_document("doctor", found.to_dict(), code)
    emit(facts(_machine(found)))
    emit("")
    emit(table(("package", "version", "needed", "for", ""), _packages(found)))
    emit("")
    emit(table(("stage", "", "where"), [(s.stage, "" if s.ready else "missing", s.where) for s in found.stages]))
    emit("")
    if found.targets:
        emit(table(("target", "GPUs", "precisions", "back-ends here"), _targets(found)))
        emit("")
    for what, install in found.missing:
        emit(f"{what}\n    {install}")
    if found.cache.problem:
        emit(f"cache: {found.cache.problem}\n    choose another folder with --cache-dir")
    emit(line("PASSED | every build can run" if code == 0 else "FAILED | see above for what is missing"))
    return code


def _machine(found: Diagnosis) -> list[tuple[str, str]]:
    machine = found.machine
    gpus = [f"{gpu.name}, {gpu.target}, driver {gpu.driver}" + _memory(gpu.memory) for gpu in found.gpus]
    driver = "installed" if found.driver else "not installed: engines can be built, not run"
    return [
        ("trtpipe", f"{found.trtpipe} on Python {machine['python']}, {machine['os']}"),
        ("CPU", f"{machine['cpu']}, {machine['cores']} cores, {format_bytes(found.memory)} memory"),
        ("GPU", "\n".join(gpus) or "none"),
        ("CUDA driver", driver),
        *((state.name, state.version or "not installed") for state in found.backends),
        ("sandbox", _sandbox(found)),
        ("cache", f"{found.cache.path}, {format_bytes(found.cache.free)} free"),
    ]


def _sandbox(found: Diagnosis) -> str:
    """What child processes that read untrusted files have no access to."""
    landlock = f"Landlock {found.landlock}" if found.landlock else "no Landlock in this kernel"
    confined = {"files": "other files", "network": "the network"}
    denied = [words for name, words in confined.items() if name in found.sandbox]
    return f"child processes have no access to {' or '.join(denied)} ({landlock})" if denied else f"none ({landlock})"


def _targets(found: Diagnosis) -> list[tuple[str, str, str, str]]:
    """One row a target; a few of its products stand for all."""
    return [
        (
            target.name,
            f"{target.family}: {', '.join(target.names[:_PRODUCTS])}",
            ", ".join(form.name for form in FORMATS if form.storage in target.dtypes) + (", DLA" * target.dla),
            ", ".join(target.backends) or "none",
        )
        for target in found.targets
    ]


def _memory(size: int | None) -> str:
    return "" if size is None else f", {format_bytes(size)}"


def _packages(found: Diagnosis) -> list[tuple[str, str, str, str, str]]:
    return [
        (package.name, package.installed or "", f">={package.needed}", package.extra or "every build", package.problem)
        for package in found.packages
        if package.extra != "dev"
    ]
