"""A package in the making: from a build's files to ``model.json``.

An ``Assembly`` is what others add to before it is published: files that ``model.json`` is to list (encrypted plans,
attestations) with ``with_file``, and then, after ``sealed`` has written ``model.json``, what speaks of all of them (a
signature).
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trtpipe
from trtpipe.artifact import FileEntry
from trtpipe.config.limits import OutputLimits
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import AudioSettings, ImageSettings
from trtpipe.config.units import printable, suggestion
from trtpipe.data.pixels import RAW
from trtpipe.delivery.reader import in_order, member
from trtpipe.delivery.record import (
    MODEL,
    SCHEMA,
    UNLISTED,
    FileDigest,
    Graph,
    Model,
    Plan,
    Postprocessing,
    Preprocessing,
    Range,
    StatedVerdict,
    Tensor,
)
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import BuildError, InputError
from trtpipe.regression.bundle import entries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trtpipe.artifact import TensorSpec
    from trtpipe.config.description import InputDescription, ModelDescription, OutputDescription
    from trtpipe.delivery.reader import Package
    from trtpipe.delivery.record import Reference
    from trtpipe.regression.bundle import Build
    from trtpipe.report.verdict import Verdict

#: Metrics whose output holds scores of classes.
_SCORES = ("top1", "top5")


@dataclass(frozen=True)
class Assembly:
    """What a package will hold.

    Attributes:
        model: what ``model.json`` will say; its ``files`` are filled in by ``listed``.
        files: name in the package -> where its content lies now.
    """

    model: Model
    files: Mapping[str, Path]

    def with_file(self, path: Path, name: str = "") -> Assembly:
        """With one more file, under its own name or another.

        Raises:
            InputError: there is one of that name.
        """
        name = name or path.name
        if name in self.files or name in UNLISTED:
            raise InputError(f"{path}: the package has a file {name!r} already", "give the file another name")
        return replace(self, files={**self.files, name: path})

    def listed(self) -> Assembly:
        """With the digest of every file that has none yet; from now on no file is replaced."""
        known = {file.name: file for file in self.model.files}
        for name in self.files.keys() - known.keys():
            entry = FileEntry.of(self.files[name], name)
            known[name] = FileDigest(entry.name, entry.sha256, entry.size)
        return replace(self, model=replace(self.model, files=tuple(known[name] for name in sorted(known))))

    def sealed(self, folder: Path) -> Assembly:
        """Digest every file and write ``model.json`` into ``folder``: what the package will be.

        Raises:
            InputError: a name is more than one line, or fields do not fit each other.
        """
        model = self.listed().model
        try:
            model.check()
        except ValueError as error:
            raise InputError(f"{MODEL}: {error}", "correct it in the file of --describe, or in the model") from error
        (folder / MODEL).write_text(model.to_file(), encoding="utf-8")
        Model.parse((folder / MODEL).read_bytes(), folder / MODEL)
        return Assembly(model, {**self.files, MODEL: folder / MODEL})

    def write_tar(self, path: Path) -> None:
        """All files as one archive, ``model.json`` first; equal packages give equal bytes."""
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for name in in_order(self.files):
                with self.files[name].open("rb") as content:
                    archive.addfile(member(name, self.files[name].stat().st_size), content)


def assemble(
    build: Build, description: ModelDescription, *, allow_failed: bool = False, handed_over: str = ""
) -> Assembly:
    """The record and the files of a package, without reference inputs: those are added by ``with_reference``.

    Args:
        allow_failed: whether a build that failed a gate is taken; the package says so.
        handed_over: a target whose engine is built elsewhere, so that a build is not rejected because it lacks that.

    Raises:
        InputError: the build was rejected, or the description speaks of what the model does not have.
    """
    manifest, verdict = build.manifest, _without(build.manifest.verdict, handed_over)
    if verdict.exit_code and not allow_failed:
        raise InputError(
            f"{build.folder}: a rejected build: {verdict.headline}",
            "build one that passes its gates; or package it anyway with --allow-failed, which the package records",
        )
    plans = tuple(_plans(build))
    profile = DeploymentProfile.model_validate(manifest.settings.get("profile", {}))
    graph, files = _graph(build), {plan.file: build.folder / plan.file for plan in plans}
    files |= {name: build.folder / name for name in (graph.file, *graph.data)}
    classes = description.classes or manifest.classes
    model = Model(
        schema=SCHEMA,
        trtpipe=trtpipe.__version__,
        name=description.name or Path(manifest.source.rpartition(":")[2]).stem,
        version=description.version,
        description=description.description,
        source=manifest.source,
        precision=str(manifest.precision),
        backend=manifest.backend,
        inputs=tuple(_tensors(build.contract.inputs, description.inputs)),
        outputs=tuple(_tensors(build.contract.outputs, description.outputs)),
        classes=classes,
        preprocessing=tuple(_preprocessing(build, description)),
        postprocessing=tuple(_postprocessing(build, description, classes)),
        tolerances=_tolerances(build),
        unordered=profile.tolerance.unordered,
        ignored=profile.tolerance.ignore,
        verdict=_stated(verdict),
        plans=plans,
        graph=graph,
        reference=None,
        licenses=(),
        model_card="",
        provenance="",
        files=(),
        notes=tuple(map(printable, verdict.remarks)),
    )
    return Assembly(model, files)


def _without(verdict: Verdict, target: str) -> Verdict:
    """What a verdict would be if the engine for a target had not been asked for, where its lack is all that failed."""
    lost = {failure.step for failure in verdict.failures} == {f"compile {target}"}
    given = verdict.precision is None or verdict.precision.given
    if verdict.exit_code != BuildError.exit_code or not lost or not given or verdict.accuracy.outcome == "failed":
        return verdict
    words = {"passed": "PASSED", "not judged": "NOT JUDGED on real data: ran"}[verdict.accuracy.outcome]
    said = {"outcome": verdict.accuracy.outcome, "exit_code": 0, "headline": f"{words} {verdict.scope}", "failures": ()}
    return verdict.model_copy(update=said)


def opened(package: Package, folder: Path) -> Assembly:
    """What a package holds, as it is; its files are copied to a private folder, and checked.

    Raises:
        InputError: a file was changed, added, removed or cut short.
    """
    names = [file.name for file in package.model.files]
    package.copy(names, folder)
    return Assembly(package.model, {name: folder / name for name in names})


def _stated(verdict: Verdict) -> StatedVerdict:
    """Without latencies: times are no content."""
    return StatedVerdict(
        outcome=verdict.outcome,
        exit_code=verdict.exit_code,
        headline=printable(verdict.headline),
        scope=printable(verdict.scope),
        samples=verdict.samples,
        data=verdict.data,
        accuracy=printable(verdict.accuracy.summary),
        latency=verdict.latency.outcome,
        allowed_failed=bool(verdict.exit_code),
    )


def with_reference(assembly: Assembly, reference: Reference, path: Path) -> Assembly:
    """With reference inputs and outputs."""
    added = assembly.with_file(path, reference.file)
    return replace(added, model=replace(added.model, reference=reference))


def with_note(assembly: Assembly, note: str) -> Assembly:
    """With one more thing that the user of the package should know."""
    return replace(assembly, model=replace(assembly.model, notes=(*assembly.model.notes, note)))


def with_papers(assembly: Assembly, licenses: Sequence[Path], card: Path | None) -> Assembly:
    """With the model's licenses and its card."""
    for path in (*licenses, *([card] if card else [])):
        if not path.is_file():
            raise InputError(f"{path}: no such file", "give an existing file")
        assembly = assembly.with_file(path)
    names = tuple(path.name for path in licenses)
    return replace(assembly, model=replace(assembly.model, licenses=names, model_card=card.name if card else ""))


def _plans(build: Build) -> Iterator[Plan]:
    for label, entry in entries(build.manifest.artifacts).items():
        if not label.startswith("engine:"):
            continue
        file = entry.files[0]
        path = build.folder / file.name
        if len(entry.files) < 2:
            raise InputError(f"{path}: no record lies beside this engine", "build it again with trtpipe")
        yield plan_of(file, EngineRecord.read(path.with_name(f"{path.name}.json")))


def plan_of(file: FileEntry, record: EngineRecord) -> Plan:
    """What ``model.json`` says of an engine."""
    options = record.options
    return Plan(
        file=file.name,
        flavor=record.flavor,
        version=record.version,
        target=record.target,
        sha256=file.sha256,
        profiles=tuple(
            {name: Range(each.min, each.opt, each.max) for name, each in profile.items()} for profile in record.profiles
        ),
        version_compatible=options is not None and options.version_compatible,
        and_later=options is not None and options.hardware_compatibility == "ampere+",
        plugins=record.plugins,
    )


def _graph(build: Build) -> Graph:
    entry = entries(build.manifest.artifacts)["lowered"]
    data = tuple(file.name for file in entry.files[1:] if file.name.endswith(".data"))
    half = build.manifest.precision.half
    return Graph(entry.files[0].name, data, "" if half is None else half.name)


def _tensors(specs: Sequence[TensorSpec], said: Mapping[str, InputDescription | OutputDescription]) -> Iterator[Tensor]:
    names = [spec.name for spec in specs]
    if unknown := [name for name in said if name not in names]:
        raise InputError(
            f"description: the model has no input or output {unknown[0]!r}", suggestion(unknown[0], names, "there are")
        )
    for spec in specs:
        words = said.get(spec.name)
        yield Tensor(spec.name, spec.dtype, spec.shape, words.meaning if words else "", words.unit if words else "")


def _preprocessing(build: Build, description: ModelDescription) -> Iterator[Preprocessing]:
    """As the description says; else what the model was evaluated with, or calibrated."""
    sources = [each.preprocessing for each in (build.parity, build.manifest.calibration) if each is not None]
    used = next((each for each in sources if each is not None), None)
    for spec in build.contract.inputs:
        words = description.inputs.get(spec.name)
        settings = (words.image or words.audio) if words else None
        if settings is not None:
            _require_taken(spec, settings)
        elif used is not None and used.input in ("", spec.name):
            settings = used
        if isinstance(settings, ImageSettings):
            yield Preprocessing(spec.name, settings.transform(), raw=spec.dtype == RAW)
        elif settings is not None:
            yield Preprocessing(spec.name, audio=settings.transform())


def _require_taken(spec: TensorSpec, settings: ImageSettings | AudioSettings) -> None:
    """Raise InputError unless what files are described to become is a batch that the input takes."""
    pictured, made = isinstance(settings, ImageSettings), settings.transform().shape
    key = f"description: inputs.{spec.name}.{'image' if pictured else 'audio'}"
    if isinstance(settings, ImageSettings) and spec.dtype == RAW and _normalizes(settings):
        raise InputError(
            f"{key}: mean and std cannot be applied to {spec}, which takes the pixels as they are",
            "remove mean and std: what normalizes these pixels is in the graph",
        )
    if spec.shape is None:
        return
    axes = spec.shape[1:]
    pairs = list(zip(made, axes, strict=False))
    if len(axes) != len(made) or any(
        isinstance(axis, int) and axis != size for size, axis in pairs if size is not None
    ):
        shown = "x".join("?" if size is None else str(size) for size in made)
        what = f"an image ({settings.layout})" if isinstance(settings, ImageSettings) else "a sound (bands, frames)"
        keys = "channels, layout, resize or crop" if pictured else "bands, hop or seconds"
        raise InputError(
            f"{key}: gives {shown} values {what}, of {spec}",
            f"correct {keys} so that files become what the model takes",
        )


def _normalizes(settings: ImageSettings) -> bool:
    return any(settings.mean) or any(value != 1 for value in settings.std)


def _postprocessing(build: Build, description: ModelDescription, classes: tuple[str, ...]) -> Iterator[Postprocessing]:
    """As the description says; else the output whose classes were evaluated."""
    metric, _, named = ("" if build.parity is None else build.parity.evaluation).partition(" of ")
    for index, spec in enumerate(build.contract.outputs):
        words = description.outputs.get(spec.name)
        if words is not None:
            made = Postprocessing(spec.name, words.activation, words.axis, words.classes)
            _require_classes(spec, made, classes)
            yield made
        elif classes and metric in _SCORES and (spec.name == named or (not named and index == 0)):
            yield Postprocessing(spec.name, classes=True)


def _require_classes(spec: TensorSpec, made: Postprocessing, classes: tuple[str, ...]) -> None:
    """Raise InputError unless an output has the axis that is named, with as many values as there are classes."""
    rank = None if spec.shape is None else len(spec.shape)
    if rank is not None and not -rank <= made.axis < rank:
        raise InputError(f"description: outputs.{spec.name}.axis: {made.axis}, of {spec}", "name an axis that is there")
    size = spec.shape[made.axis] if spec.shape else None
    along_samples = rank is not None and made.axis % max(rank, 1) == 0 and not isinstance(size, int)
    if along_samples and (made.classes or made.activation == "softmax"):
        raise InputError(
            f"description: outputs.{spec.name}.axis: {made.axis}, the axis of the samples, of {spec}",
            "name the axis of the classes, or leave classes and softmax out for this output",
        )
    if made.classes and (not classes or (isinstance(size, int) and size != len(classes))):
        raise InputError(
            f"description: outputs.{spec.name}: scores of {len(classes)} classes, and the model gives {spec}",
            "give the names of all classes, in the order of their numbers",
        )


def _tolerances(build: Build) -> dict[str, OutputLimits]:
    """Those in force when the build was verified, of the artifact that came last. Of a graph with plug-ins other
    tensors than its outputs were compared.
    """
    if build.parity is None:
        return {}
    last, names = build.parity.comparisons[-1], [spec.name for spec in build.contract.outputs]
    return {each.output: OutputLimits(**each.tolerance.model_dump()) for each in last.outputs if each.output in names}
