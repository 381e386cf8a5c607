"""``provenance.json``: when, where and by what a bundle was made. Beside the manifest, and in no digest that is
compared: equal builds have equal manifests, whenever and wherever they were made.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import ClassVar

import trtpipe
from trtpipe.artifact import Record
from trtpipe.config.redaction import without_secrets
from trtpipe.config.toolchain import machine
from trtpipe.digest import sha256_file
from trtpipe.errors import InputError

PROVENANCE, SCRIPT = "provenance.json", "reproduce.sh"
#: How the script begins.
SCRIPT_HEAD = "#!/bin/sh\n# Builds "
_TIMEOUT_SECONDS = 10.0
#: What a repository's own configuration may make git run is left out.
_GIT = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")


class GitState(Record):
    """The repository that a build was made in.

    Attributes:
        commit: 40 hex digits, or 64.
        dirty: whether tracked files differ from it.
    """

    commit: str
    dirty: bool


class Provenance(Record):
    """Where a bundle comes from. It never holds secrets: no environment, no user, no name of the machine.

    Attributes:
        trtpipe: its version.
        created: when, in UTC (ISO 8601).
        command: the command line, without what looks like a secret; empty for a call from Python.
        source: what the user named, without folders.
        git: the repository of the source's code, else that of the working folder; ``None`` where there is none.
        machine: what kind of machine it was.
        toolchain: name -> version of every tool used.
        manifest: sha256 of the manifest that this belongs to.
    """

    SCHEMA: ClassVar[int] = 1

    trtpipe: str
    created: str
    command: tuple[str, ...]
    source: str
    git: GitState | None
    machine: dict[str, str | int]
    toolchain: dict[str, str]
    manifest: str

    @classmethod
    def now(cls, manifest: Path, source: str, code: Path | None, toolchain: dict[str, str]) -> Provenance:
        """Of a bundle that has just been made.

        Args:
            manifest: its manifest.
            source: what the user named, without folders.
            code: the source's Python file, where it has one.
        """
        return cls(
            trtpipe=trtpipe.__version__,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=_command(),
            source=source,
            git=git_state(code.parent if code is not None else Path.cwd()),
            machine=machine(),
            toolchain=toolchain,
            manifest=sha256_file(manifest),
        )

    def script(self, profile: str, recipe: str) -> str:
        """A shell script that builds the same again: the tools' versions, then the command.

        A command line is repeated as it was. A call from Python is not known; what it asked for is, so the profile
        and the recipe are part of the script.

        Args:
            profile, recipe: those in force, as TOML.
        """
        pins = shlex.join(f"{name}=={version.partition('+')[0]}" for name, version in self.toolchain.items())
        state = "" if self.git is None else f", commit {self.git.commit}{' with changes' if self.git.dirty else ''}"
        lines = [
            f"{SCRIPT_HEAD}{_comment(self.source)} again{state}.",
            f"# Made {self.created} with Python {self.machine['python']}.",
            "# Run it in the folder that its paths are relative to. Engines are never the same bytes twice, all else",
            f"# is: trtpipe diff shows what differs. The versions that were used beside trtpipe {self.trtpipe}:",
            f"#   python3 -m pip install {_comment(pins)}",
            "set -eu",
        ]
        if self.command:
            return "\n".join([*lines, f'{shlex.join(self.command)} "$@"', ""])
        files = {"profile": profile, "calib": recipe}
        lines += ["work=$(mktemp -d)", "trap 'rm -rf \"$work\"' EXIT"]
        for name, text in files.items():
            lines += [f"printf '%s' {shlex.quote(text)} > \"$work/{name}.toml\""]
        source = shlex.quote(self.source)
        call = f'trtpipe build {source} --profile "$work/profile.toml" --calib "$work/calib.toml" -o rebuilt "$@"'
        return "\n".join([*lines, call, ""])

    @classmethod
    def beside(cls, manifest: Path) -> Provenance | None:
        """That of the bundle of ``manifest``; ``None`` where there is none, or one of another bundle."""
        try:
            found = cls.read(manifest.with_name(PROVENANCE))
            return found if found.manifest == sha256_file(manifest) else None
        except (InputError, OSError):
            return None


def git_state(folder: Path) -> GitState | None:
    """The commit of the repository that ``folder`` is in, and whether tracked files were changed since; ``None`` where
    there is no repository, or no git.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else GitState(commit=commit.strip(), dirty=bool(changes.strip()))


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            [*_GIT, *words], cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout


def _comment(text: str) -> str:
    """Text that cannot leave its line."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _command() -> tuple[str, ...]:
    """The words of ``trtpipe ...``, if that is what runs."""
    program = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    ours = program.name == "trtpipe" or program == Path(trtpipe.__file__).with_name("__main__.py")
    return ("trtpipe", *map(without_secrets, sys.argv[1:])) if ours else ()
