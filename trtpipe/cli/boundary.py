"""The one place where errors become two lines, an exit code and, for ``--json``, a document."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

import click

from trtpipe.cli.interrupts import watched_interrupts
from trtpipe.cli.results import print_json
from trtpipe.cli.text import complain
from trtpipe.config.units import printable
from trtpipe.errors import HostError, InputError, InternalError, TrtpipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.cli.session import Session

INTERRUPTED = 130
#: Characters of a message that are shown: it may quote a file's own words.
_LONGEST = 2000
_REPORT = "report it with what `trtpipe doctor` prints and with the output of this command with --debug"


def guarded(run: Callable[[], object], session: Session) -> int:
    """Run a command; whatever it raises is said on standard error.

    Returns:
        The exit code.
    """
    with watched_interrupts() as interrupts:
        try:
            code = run()
            return code if isinstance(code, int) else 0
        except click.Abort as stop:  # Click's word for Ctrl-C, and for an EOFError
            if isinstance(stop.__cause__, EOFError):
                return _report(stop.__cause__, session)
            return _interrupted(session)
        except KeyboardInterrupt:
            return _interrupted(session)
        except Exception as error:  # noqa: BLE001  the boundary is where everything ends
            return _interrupted(session, error) if interrupts.pressed else _report(error, session)
        finally:
            if session.log is not None:
                session.log.close()


def _interrupted(session: Session, instead: Exception | None = None) -> int:
    """Say so.

    Args:
        instead: what came out in the place of KeyboardInterrupt.
    """
    if instead is not None:
        _trace(instead, session)
    message = "interrupted" if session.out is None else f"interrupted; nothing was written to {session.out}"
    _say(session, "Interrupted", message, "", INTERRUPTED)
    return INTERRUPTED


def _report(error: BaseException, session: Session) -> int:
    _trace(error, session)
    known = _translated(error)
    code = known.exit_code if known is not None else InternalError.exit_code
    try:
        if known is not None:
            _say(session, type(known).__name__, known.message, known.remedy, code)
        else:
            words = " ".join(str(error).split("\n", 1)[0].split())
            _say(session, "InternalError", f"internal error: {type(error).__name__}: {words}", _REPORT, code)
    except TrtpipeError as unwritable:  # standard output is full or closed; standard error has been told
        return unwritable.exit_code
    return code


def _say(session: Session, kind: str, message: str, remedy: str, code: int) -> None:
    message = message if len(message) <= _LONGEST else f"{message[:_LONGEST]} ..."
    complain(f"error: {printable(message)}" if code != INTERRUPTED else printable(message))
    if remedy:
        complain(f"  try: {printable(remedy)}")
    if session.log is not None:
        session.log.write(printable(f"error: {message} | try: {remedy}"))
    if session.json:
        print_json({"error": {"kind": kind, "message": message, "remedy": remedy}, "exit_code": code})


def _translated(error: BaseException) -> TrtpipeError | None:
    """The error as one a user can act on; ``None`` if it is none, but a bug."""
    if isinstance(error, TrtpipeError):
        return error
    if isinstance(error, click.UsageError):
        path = "trtpipe" if error.ctx is None else error.ctx.command_path
        return InputError(" ".join(error.format_message().split()), f"see {path} --help")
    if isinstance(error, click.ClickException):
        return InputError(error.format_message(), "see trtpipe --help")
    if isinstance(error, MemoryError) or (isinstance(error, ImportError) and "map segment" in str(error)):
        return HostError("out of memory", "free some, or use a machine with more")
    if isinstance(error, ModuleNotFoundError) and not (error.name or "trtpipe").startswith("trtpipe"):
        package = (error.name or "").partition(".")[0]
        return HostError(f"the package {package!r} is missing", "run trtpipe doctor, or install trtpipe again")
    if isinstance(error, OSError):
        return _refused(error)
    return None


def _refused(error: OSError) -> TrtpipeError | None:
    """What the operating system refused, where that is the machine's state and not a bug."""
    from pathlib import Path

    from trtpipe.config.os_errors import translate_os_errors

    try:
        with translate_os_errors(Path(str(error.filename or ".")), "go on", elsewhere="use another place"):
            raise error
    except HostError as translated:
        return translated
    except OSError:
        return None


def _trace(error: BaseException, session: Session) -> None:
    """The traceback, for those who asked for it."""
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
    for line in map(printable, lines):
        if session.debug:
            complain(line)
        if session.log is not None:
            session.log.write(line)
