"""``trtpipe cache``: the store of stage results."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from trtpipe.cli.groups import ExampleGroup
from trtpipe.cli.options import command, common_options, parsed
from trtpipe.cli.results import print_document
from trtpipe.cli.tables import line, table
from trtpipe.cli.text import emit
from trtpipe.config.units import format_bytes, parse_bytes, parse_seconds, printable
from trtpipe.errors import InputError, StoreCorrupt

if TYPE_CHECKING:
    from trtpipe import ArtifactStore, SharedStore
    from trtpipe.cli.session import Session
    from trtpipe.store import PruneReport


@click.group(
    cls=ExampleGroup, examples=("trtpipe cache list", "trtpipe cache prune --max-size 20G"), invoke_without_command=True
)
@common_options
@click.pass_context
def cache(context: click.Context) -> None:
    """List, verify and remove cached stage results."""
    if context.invoked_subcommand is None:
        emit(context.get_help())


_shared_option = click.option(
    "--shared", is_flag=True, help="Of the store that machines share (TRTPIPE_STORE), not of this machine's cache."
)


@command(_shared_option, group=cache, name="list", examples=("trtpipe cache list",))
def list_entries(session: Session, shared: bool) -> int:
    """List the entries, least recently used first."""
    if shared:
        return _list_shared(session)
    with _store(session) as store:
        entries = list(store.entries())
    if session.json:
        documents = [
            {**found.entry.to_dict(), "folder": str(found.folder), "size": found.size, "last_used": found.last_used}
            for found in entries
        ]
        return print_document("cache list", {"root": str(store.root), "entries": documents})
    rows = [
        (
            found.entry.key.label,
            found.entry.files[0].name,
            format_bytes(found.size),
            _ago(time.time() - found.last_used),
            found.entry.digest[:12],
        )
        for found in entries
    ]
    if rows:
        emit(table(("stage", "artifact", "size", "last used", "key"), rows, right=("size", "last used")))
    emit(f"{len(rows)} entries, {format_bytes(sum(found.size for found in entries))} in {printable(str(store.root))}")
    return 0


@command(_shared_option, group=cache, examples=("trtpipe cache verify",))
def verify(session: Session, shared: bool) -> int:
    """Verify the digest of every entry. Corrupt entries are quarantined, and rebuilt when needed; exit code 6.

    Entries that are not sealed with this user's key are counted; they are never used.
    """
    if shared:
        report = _shared(session).verify()
    else:
        with _store(session) as store:
            report = store.verify()
    code = StoreCorrupt.exit_code if report.corrupt else 0
    if session.json:
        return print_document("cache verify", asdict(report), code)
    for fault in report.corrupt:
        emit(printable(fault))
    word = "FAILED" if report.corrupt else "PASSED"
    emit(
        line(
            f"{word} | {report.checked} entries, {format_bytes(report.size)} checked | {len(report.corrupt)} corrupt | "
            f"{report.foreign} sealed with another key"
        )
    )
    return code


@command(
    click.option("--max-size", metavar="10G", help="Remove least recently used entries until the rest fits."),
    click.option("--max-age", metavar="30d", help="Remove entries unused for longer."),
    _shared_option,
    group=cache,
    examples=("trtpipe cache prune --max-size 20G --max-age 30d",),
)
def prune(session: Session, max_size: str | None, max_age: str | None, shared: bool) -> int:
    """Remove corrupt, old and least recently used entries, and those of another key, except those in use."""
    size = None if max_size is None else parsed("--max-size", parse_bytes, max_size)
    age = None if max_age is None else parsed("--max-age", parse_seconds, max_age)
    if shared:
        return _show(session, "cache prune", _shared(session).prune(size, age))
    with _store(session) as store:
        return _show(session, "cache prune", store.prune(size, age))


@command(
    click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
    group=cache,
    examples=("trtpipe cache clear --yes",),
)
def clear(session: Session, yes: bool) -> int:
    """Remove all entries except those in use."""
    with _store(session) as store:
        if not yes:
            if session.json or not sys.stdin.isatty():
                raise InputError("cache clear needs confirmation, and standard input is not a terminal", "add --yes")
            question = f"Remove {format_bytes(store.size())} in {printable(str(store.root))}?"
            if not click.confirm(question, err=True):
                return 0
        return _show(session, "cache clear", store.clear())


def _store(session: Session) -> ArtifactStore:
    import trtpipe

    return trtpipe.ArtifactStore(session.settings.cache_dir, seal=session.settings.key)


def _shared(session: Session) -> SharedStore:
    """The store that machines share.

    Raises:
        InputError: there is none.
    """
    import trtpipe

    settings = session.settings
    if settings.store is None:
        raise InputError("no shared store is known", "set TRTPIPE_STORE, for example to s3://BUCKET/PREFIX")
    return trtpipe.SharedStore(settings.store, settings.key, trtpipe.NullProgress(), settings.store_lease)


def _list_shared(session: Session) -> int:
    store = _shared(session)
    entries = store.entries()
    if session.json:
        documents = [
            {**found.entry.to_dict(), "size": found.size, "last_used": found.stored, "name": found.name}
            for found in entries
        ]
        return print_document("cache list", {"root": store.bucket.url, "entries": documents})
    rows = [
        (each.entry.key.label, each.entry.files[0].name, format_bytes(each.size), each.entry.digest[:12])
        for each in entries
    ]
    if rows:
        emit(table(("stage", "artifact", "size", "key"), rows, right=("size",)))
    emit(f"{len(rows)} entries, {format_bytes(sum(each.size for each in entries))} in {printable(store.bucket.url)}")
    return 0


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return "just now"


def _show(session: Session, name: str, report: PruneReport) -> int:
    if session.json:
        return print_document(name, asdict(report))
    busy = f", {report.in_use} of them in use" if report.in_use else ""
    emit(f"removed {report.removed} entries, {format_bytes(report.freed)}")
    emit(f"kept    {report.kept} entries, {format_bytes(report.size)}{busy}")
    return 0
