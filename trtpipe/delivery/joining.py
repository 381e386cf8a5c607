"""Several models in one package: a package of packages, whose digests and signature vouch for all that is in them.

What is asked of a model (its inputs, plans, self-test) is asked of its own package; the package of all says which there
are, and the worst of their verdicts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import trtpipe
from trtpipe.delivery.assembly import Assembly
from trtpipe.delivery.reader import TAR, Package
from trtpipe.delivery.record import SCHEMA, WRITTEN, Member, Model, StatedVerdict
from trtpipe.digest import sha256_bytes
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: From the best to the worst.
_OUTCOMES = ("passed", "not judged", "failed")
_DATA = ("real", "random", "none")


def joined(packages: Mapping[str, Package], name: str, version: str, folder: Path) -> Assembly:
    """A package that holds others, under the names given; it is not sealed yet.

    Args:
        folder: private; archives of the packages are written there.

    Raises:
        InputError: one of them is not whole, or holds several models itself.
    """
    members, files = [], {}
    for each, package in packages.items():
        if package.model.members:
            raise InputError(f"{package.path}: holds several models itself", "give the packages that it was made of")
        package.check_complete()
        path = folder / f"{each}{TAR}"
        _archive(package, path)
        copy = Package.opened(path)
        copy.verify()  # what lies there now, whatever it was made of
        members.append(Member(each, path.name, sha256_bytes(copy.index)))
        files[path.name] = path
    models = {each: package.model for each, package in packages.items()}
    return Assembly(_stated(models, tuple(members), name, version), files)


def _archive(package: Package, path: Path) -> None:
    if package.path.is_dir():
        names = package.names - {WRITTEN}
        Assembly(package.model, {name: package.path / name for name in names}).write_tar(path)
    else:
        shutil.copyfile(package.path, path)


def _stated(models: Mapping[str, Model], members: tuple[Member, ...], name: str, version: str) -> Model:
    each = list(models.values())
    return Model(
        schema=SCHEMA,
        trtpipe=trtpipe.__version__,
        name=name or "+".join(models),
        version=version,
        description="",
        source=_words(model.source for model in each),
        precision=_words(model.precision for model in each),
        backend=_words(model.backend for model in each),
        inputs=(),
        outputs=(),
        classes=(),
        preprocessing=(),
        postprocessing=(),
        tolerances={},
        verdict=_worst({called: model.verdict for called, model in models.items()}),
        plans=(),
        graph=None,
        reference=None,
        licenses=(),
        model_card="",
        provenance="",
        files=(),
        notes=tuple(f"{called}: {note}" for called, model in models.items() for note in model.notes),
        members=members,
    )


def _worst(verdicts: Mapping[str, StatedVerdict]) -> StatedVerdict:
    """What can be said of all models together."""
    each = list(verdicts.values())

    def listed(texts: Iterable[str]) -> str:
        return "; ".join(f"{name}: {text}" for name, text in zip(verdicts, texts, strict=True))

    outcome = max((verdict.outcome for verdict in each), key=_OUTCOMES.index)
    return StatedVerdict(
        outcome=outcome,
        exit_code=next((verdict.exit_code for verdict in each if verdict.exit_code), 0),
        headline=f"{outcome.upper()} | {len(each)} models: {listed(verdict.headline for verdict in each)}",
        scope=listed(verdict.scope for verdict in each),
        samples=min(verdict.samples for verdict in each),
        data=max((verdict.data for verdict in each), key=_DATA.index),
        accuracy=listed(verdict.accuracy for verdict in each),
        latency=max((verdict.latency for verdict in each), key=_OUTCOMES.index),
        allowed_failed=any(verdict.allowed_failed for verdict in each),
    )


def _words(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def names_of(paths: Sequence[Path]) -> list[str]:
    """What models are called in a package of several: as their packages, without ``.tar``.

    Raises:
        InputError: two are called alike, or there is one alone.
    """
    names = [path.absolute().name.removesuffix(TAR) for path in paths]
    if len(names) < 2:
        raise InputError("packages: fewer than two", "give two packages or more; one is a package by itself")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"packages: two are called {twice[0]!r}", "rename one: a model is called as its package")
    return names
