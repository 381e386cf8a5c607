"""From a matrix to builds: what cells are made of, whether any worker can do them, and what workers are sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.api.request import profile_from, recipe_from
from trtpipe.config.source import parse_source
from trtpipe.config.target import find_target
from trtpipe.data.dataset import check_source
from trtpipe.errors import BuildError, HostError, InputError, TrtpipeError
from trtpipe.farm.graph import Build
from trtpipe.farm.matrix_file import Cell, Matrix, cells_of
from trtpipe.farm.tasks import Needs, SealedCopy, TaskError
from trtpipe.remote import open_bucket
from trtpipe.store.shipping import files_of, send

if TYPE_CHECKING:
    from trtpipe.api.arguments import BuildArguments
    from trtpipe.config.recipe import CalibrationRecipe
    from trtpipe.farm.tasks import Offer


@dataclass(frozen=True)
class Chosen:
    """A matrix, read and resolved.

    Attributes:
        builds: of all cells that can be done.
        problems: cell number -> why it cannot.
    """

    cells: tuple[Cell, ...]
    builds: tuple[Build, ...]
    problems: Mapping[int, TaskError]

    @cached_property
    def by_cell(self) -> Mapping[int, tuple[int, ...]]:
        """Cell number -> the numbers of its builds."""
        found: dict[int, list[int]] = {}
        for index, build in enumerate(self.builds):
            found.setdefault(build.cell, []).append(index)
        return {number: tuple(indices) for number, indices in found.items()}

    def of(self, number: int) -> tuple[int, ...]:
        """The numbers of the builds of a cell."""
        return self.by_cell.get(number, ())


def choose(matrix: Matrix, path: Path, offers: Sequence[Offer], *, alone: bool = True) -> Chosen:
    """The builds of all cells that some worker can do; and for the others why they cannot be, before any work.

    Args:
        alone: whether all workers are on this machine, so that what is missing here is missing everywhere.
    """
    builds: list[Build] = []
    problems: dict[int, TaskError] = {}
    cells = cells_of(matrix, path)
    for number, cell in enumerate(cells):
        try:
            parts = list(_builds(number, cell, path, offers))
            if alone:
                _check_files(parts)
        except TrtpipeError as error:
            problems[number] = _words(error)
        else:
            builds += parts
    return Chosen(cells, tuple(builds), problems)


def _builds(number: int, cell: Cell, path: Path, offers: Sequence[Offer]) -> Iterator[Build]:
    base = path.absolute().parent
    model = cell.model
    file = model.recipe if cell.recipe is None else cell.recipe.file
    asked: BuildArguments = {
        "profile": None if model.profile is None else base / model.profile,
        "precision": cell.precision,
        "recipe": None if file is None else base / file,
        "calib_data": _placed(base, model.calib_data),
        "eval_data": _placed(base, model.eval_data),
    }
    profile, recipe = profile_from(asked), _with_places(recipe_from(asked))
    target = cell.target or next(iter(profile.targets), "")
    if not target:
        raise InputError("no target is given", "add targets to the matrix, or to the profile")
    flavor = cell.flavor or ("" if profile.backend == "auto" else profile.backend) or _usual(offers)
    profile = profile.model_copy(update={"targets": (target,), "backend": flavor})
    found = find_target(target)
    if not found.computes(profile.precision):
        raise BuildError(f"{found} ({found.family}) does not compute in {profile.precision}", "exclude the cell")
    needs = Needs(flavor=flavor, version=cell.version)
    if not any(offer.serves(needs) for offer in offers):
        have = ", ".join(sorted({f"{name} {version}" for offer in offers for name, version in offer.flavors.items()}))
        raise HostError(
            f"no worker has {needs} (there is: {have or 'no TensorRT'})",
            "add a worker that has it, or exclude the cell",
        )
    several = len(model.parts) > 1
    for source in model.parts:
        placed = _placed(base, source)
        assert placed is not None
        parse_source(placed)  # complains where there is no such file
        label = f"{cell.name} ({Path(source).stem})" if several else cell.name
        yield Build(number, label, placed, profile, recipe, flavor, cell.version, target)


def _check_files(builds: Sequence[Build]) -> None:
    """See that models and data are there.

    Raises:
        InputError: a file or folder is missing.
    """
    for build in builds:
        path = Path(build.source)
        if ":" not in path.name and not path.exists():
            raise InputError(f"{path}: no such file", "correct the source in the matrix file")
        evaluation = build.recipe.evaluation
        for text in filter(None, (build.recipe.data.source, "" if evaluation is None else evaluation.source)):
            check_source(text)


def _usual(offers: Sequence[Offer]) -> str:
    """The flavor where nothing names one: the one that a build on such a worker takes."""
    present = {name for offer in offers for name in offer.flavors}
    return next((name for name in ("tensorrt", "tensorrt-rtx") if name in present), "tensorrt-rtx")


def _with_places(recipe: CalibrationRecipe) -> CalibrationRecipe:
    """The recipe with absolute paths: what it names is seen from here, as in a build, and workers are elsewhere."""
    here = Path.cwd()
    data = recipe.data.model_copy(update={"source": _placed(here, recipe.data.source or None) or ""})
    evaluation = recipe.evaluation
    if evaluation is not None:
        places = {"source": _placed(here, evaluation.source or None) or ""}
        if evaluation.own and evaluation.metric is not None:
            places["metric"] = _placed(here, evaluation.metric) or ""
        evaluation = evaluation.model_copy(update=places)
    return recipe.model_copy(update={"data": data, "evaluation": evaluation})


def _placed(base: Path, text: str | None) -> str | None:
    """A path of the matrix file as an absolute one; the name of a module as it is."""
    if text is None:
        return None
    head, colon, function = text.rpartition(":")
    if colon and not (base / text).exists():
        return f"{base / head}:{function}" if head.endswith(".py") else text
    return str(base / text)


def shipped(chosen: Chosen, where: str, limit: int) -> Chosen:
    """Send what workers may not have: graphs and data in files. Of what is too large they learn what it is, and that
    they need it under the same path."""
    bucket = open_bucket(where)
    sent: dict[str, SealedCopy | TrtpipeError | None] = {}

    def copy_of(text: str) -> SealedCopy | None:
        if text not in sent:
            try:
                sent[text] = _sealed_copy(text)
            except TrtpipeError as error:
                sent[text] = error
        found = sent[text]
        if isinstance(found, TrtpipeError):
            raise found
        return found

    def _sealed_copy(text: str) -> SealedCopy | None:
        path = Path(text)
        if not path.exists():
            return None
        beside = _external(path) if path.suffix == ".onnx" else ()
        folder, names = files_of(path, beside)
        files, sent = send(bucket, folder, names, limit)
        return SealedCopy(path=text, folder=path.is_dir(), files=files, sent=sent)

    problems, builds = dict(chosen.problems), []
    for build in chosen.builds:
        evaluation = build.recipe.evaluation
        texts = [build.source, build.recipe.data.source, "" if evaluation is None else evaluation.source]
        try:
            copies = tuple(copy for text in filter(None, texts) if (copy := copy_of(text)) is not None)
        except TrtpipeError as error:
            problems[build.cell] = _words(error)
        else:
            builds.append(replace(build, copies=copies))
    kept = tuple(build for build in builds if build.cell not in problems)
    return Chosen(chosen.cells, kept, problems)


def _external(path: Path) -> tuple[str, ...]:
    """Names of the files that hold weights of a graph."""
    from trtpipe.preflight.onnx_io import external_refs, read_proto

    return tuple(sorted({ref.location for ref in external_refs(read_proto(path), path)}))


def _words(error: TrtpipeError) -> TaskError:
    return TaskError(kind=type(error).__name__, message=error.message, remedy=error.remedy, exit_code=error.exit_code)
