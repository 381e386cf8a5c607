"""What a run made, as a table for people or as one JSON document; and the exit code that follows from it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.cli.tables import line, show, table
from trtpipe.cli.text import emit
from trtpipe.config.units import format_bytes, format_seconds, printable
from trtpipe.views.artifacts import explanation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe import Artifact, BuildResult, Step
    from trtpipe.cli.session import Session
    from trtpipe.report.verdict import Gate

ACCURACY_FAILED, LATENCY_FAILED = 3, 4
_STATES = {"hit": "cached", "skipped": "skipped", "failed": "FAILED"}


def print_json(document: Mapping[str, Any]) -> None:
    """The one document that ``--json`` promises."""
    emit(json.dumps(document, indent=2))


def print_document(command: str, document: Mapping[str, Any], code: int = 0) -> int:
    """The document of a command that came to its end; and its exit code."""
    print_json({"command": command, "exit_code": code, **document})
    return code


def print_paths(paths: Sequence[Path], following: Sequence[str] = ()) -> None:
    """Where the results are, and the ``trtpipe`` command people usually need next."""
    for path in paths:
        emit(f"result: {printable(str(path))}")
    if following:
        emit(f"next:   {printable(shlex.join(['trtpipe', *following]))}")


def finish(session: Session, command: str, result: BuildResult, following: Sequence[str] = ()) -> int:
    """Print what was made, and give the exit code.

    Args:
        command: its name.
        following: the command people usually need next; by default the right ``inspect``.
    """
    session.out = None  # an interruption can no longer spoil it
    verdict = result.verdict
    code = verdict.exit_code
    if session.json:
        document = {
            "passed": verdict.passed,
            "out": None if result.out is None else str(result.out),
            "steps": [_step_document(step, result.out) for step in result.steps],
            "verdict": verdict.to_dict(),
            "parity": None if result.parity is None else result.parity.to_dict(),
            "latency": None if result.latency is None else result.latency.to_dict(),
        }
        return print_document(command, document, code)
    if result.steps:
        emit(_steps_table(result, detailed=session.verbosity > 0))
    else:  # no table that would hold it
        emit(verdict.accuracy.summary.replace("; ", "\n"))
    for remark in verdict.remarks:
        emit(f"note: {printable(remark)}")
    emit(line(_conclusion(result)))
    paths = [] if result.out is None else [result.out]
    print_paths(paths, following if code == 0 and following else _inspection(result))
    return code


def show_dry_run(session: Session, steps: Sequence[Step]) -> int:
    """Print what would be done."""
    if session.json:
        return print_document("build", {"dry_run": True, "steps": [_step_document(step, None) for step in steps]})
    rows = [(step.label, "cached" if step.state == "hit" else step.state, step.because) for step in steps]
    emit(table(("stage", "state", "reason"), rows))
    return 0


def main_file(result: BuildResult) -> Path:
    """Where the last of the artifacts lies."""
    return Path() if result.out is None else _published(result.artifacts[-1], result.out)


def explained(session: Session, command: str, lowered: Path, node: str) -> int:
    """Print what lowering decided for ``node``: the record beside ``lowered``, or in it."""
    import trtpipe

    session.out = None
    decisions = trtpipe.inspect(lowered).explain(node)
    if session.json:
        return print_document(command, {"nodes": [each.to_dict() for each in decisions]})
    emit("\n\n".join(map(show, explanation(decisions))))
    return 0


def _steps_table(result: BuildResult, *, detailed: bool) -> str:
    gates = {"verify": result.verdict.accuracy, "measure": result.verdict.latency}
    rows = []
    for step in result.steps:
        artifact = step.artifact
        row = [
            step.label,
            "" if artifact is None else artifact.files[0].name,
            "" if artifact is None else format_bytes(_weight(artifact)),
            _STATES.get(step.state) or format_seconds(step.seconds),
            _remark(step, gates.get(step.label)),
        ]
        rows.append([*row, step.because, step.key[:12]] if detailed else row)
    headers = ["stage", "artifact", "size", "time", "verdict", *(["reason", "key"] if detailed else [])]
    return table(headers, rows, right=("size", "time"))


def _weight(artifact: Artifact) -> int:
    """Bytes of the file that is shown, with its external data."""
    main, *others = artifact.files
    return main.size + sum(entry.size for entry in others if entry.name.endswith(".data"))


def _remark(step: Step, gate: Gate | None) -> str:
    if step.state in ("skipped", "failed"):
        return step.because
    if gate is None:
        return _engine_summary(step.artifact)
    word = {"passed": "PASSED ", "failed": "FAILED "}.get(gate.outcome, "")
    return word + gate.summary.replace("; ", "\n")


def _engine_summary(artifact: Artifact | None) -> str:
    """The builder's report of an engine, in one line."""
    if artifact is None or artifact.kind != "engine" or len(artifact.files) == 1:
        return ""
    import trtpipe

    report = trtpipe.EngineRecord.read(artifact.sidecar).report
    return "" if report is None else report.summary


def _conclusion(result: BuildResult) -> str:
    """The verdict; where a run had nothing to judge, what it made."""
    made = ", ".join(artifact.files[0].name for artifact in result.artifacts)
    return result.verdict.headline or f"done: made {made}"


def _inspection(result: BuildResult) -> list[str]:
    """The command that shows the most telling file of what was written."""
    if result.out is None:
        return []
    kinds = {artifact.kind: artifact for artifact in result.artifacts}
    wanted = "parity" if result.accurate is False else "latency" if result.fast is False else "manifest"
    if not result.artifacts:
        return ["inspect", str(result.out)]
    return ["inspect", str(_published(kinds.get(wanted, result.artifacts[0]), result.out))]


def _published(artifact: Artifact, out: Path) -> Path:
    return out / artifact.files[0].name if out.is_dir() else out


def _step_document(step: Step, out: Path | None) -> dict[str, Any]:
    stage, _, target = step.label.partition(" ")
    return {
        "stage": stage,
        "target": target or None,
        "state": step.state,
        "because": step.because,
        "seconds": step.seconds,
        "key": step.key or None,
        "artifact": None if step.artifact is None else _artifact_document(step.artifact, out),
    }


def _artifact_document(artifact: Artifact, out: Path | None) -> dict[str, Any]:
    return {
        "label": artifact.label,
        "digest": artifact.digest,
        "size": artifact.size,
        "path": None if out is None else str(_published(artifact, out)),
        "files": [entry.to_dict() for entry in artifact.files],
    }
