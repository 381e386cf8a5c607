"""What a run holds: the artifacts made so far, the data sets, and files of the user's as artifacts."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Artifact, FileEntry, IOContract
from trtpipe.config.build_request import typical_shapes
from trtpipe.config.preprocessing import FoldedPreprocessing
from trtpipe.config.profile import ShapeRange
from trtpipe.config.recipe import CalibrationRecipe, DataSettings
from trtpipe.config.shapes import check_outputs, check_shapes, is_dynamic
from trtpipe.errors import InputError
from trtpipe.progress import NullProgress, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.artifact import Feed
    from trtpipe.config.job import Job, Role
    from trtpipe.data.dataset import Dataset
    from trtpipe.data.folder import Listing
    from trtpipe.report.verdict import Failure

#: The artifacts that are ONNX graphs, in the order they are made.
GRAPHS = ("model", "simplified", "lowered")
#: So many samples show whether a graph that was rewritten still computes the same.
_FIRST = 2


@dataclass
class RunState:
    """What has been made so far. Lives for one run."""

    artifacts: dict[str, Artifact]
    complete_shapes: bool  # whether every dynamic input must have a range, because an engine will be built
    keys: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, Dataset] = field(default_factory=dict)
    contracts: dict[Artifact, IOContract] = field(default_factory=dict)  # what was read of graphs already
    failures: list[Failure] = field(default_factory=list)  # targets and stages that the run goes on without
    unknown: set[str] = field(default_factory=set)  # kinds a plan cannot know, because they are to be built
    shapes_inferred: bool = False
    run_again: set[str] = field(default_factory=set)  # the user's code of which it was said that it always runs
    parsed: set[str] = field(default_factory=set)  # digests of graphs that the back-end's parser was asked about
    first: tuple[Feed, ...] | None = None  # see ``first_samples``
    progress: Progress = field(default_factory=NullProgress)
    corners_checked: bool = False  # whether the model was seen to work at the profiles' corners

    def add(self, artifact: Artifact, key: str) -> None:
        """Put a stage's result where the next stages find it, with the digest of its key."""
        self.artifacts[artifact.label] = artifact
        self.keys[artifact.label] = key

    def contract(self) -> IOContract | None:
        """The model's inputs and outputs, from the export's sidecar where there is one, else from the graph itself."""
        artifact = self._graph()
        if artifact is None:
            return None
        if artifact not in self.contracts:
            self.contracts[artifact] = _contract_of(artifact)
        return self.contracts[artifact]

    def _graph(self) -> Artifact | None:
        return next((self.artifacts[kind] for kind in GRAPHS if kind in self.artifacts), None)

    def check_profile(self, job: Job) -> None:
        """Complain about shapes and tolerances as soon as a graph is there, not after the long work."""
        contract = self.contract()
        if contract is not None:
            check_shapes(contract, job.profile.shapes, complete=self.complete_shapes)
            check_outputs([spec.name for spec in contract.outputs], job.profile.tolerance)

    def dataset(self, role: Role, job: Job) -> Dataset | None:
        """The data set that plays ``role``; ``None`` if there is none. Random data only where the user asked for it."""
        if role not in self.datasets and (contract := self.contract()) is not None:
            from trtpipe.data.dataset import open_dataset
            from trtpipe.data.function import hold_feeds
            from trtpipe.data.synthetic import RandomDataset
            from trtpipe.isolation.worker import user_limits

            settings, feeds = data_settings(role, job), job.feeds.get(role)
            if settings is not None:
                folded = job.profile.build.fold_preprocessing or self.prepares_images(settings)
                limits = user_limits(job.settings)
                self.datasets[role] = (
                    open_dataset(settings, contract, limits, folded=folded, progress=self.progress)
                    if feeds is None
                    else hold_feeds(settings, contract, feeds)
                )
            elif role == "calibration-data" and job.allow_random:
                shapes = typical_shapes(job.profile)[0]
                self.datasets[role] = RandomDataset(contract, shapes, job.recipe.data.samples or 32, seed=0)
        return self.datasets.get(role)

    def prepares_images(self, data: DataSettings) -> bool:
        """Whether the graph itself says that it normalizes images, which are then read as bytes.

        Raises:
            InputError: ``data`` asks for another normalization.
        """
        from trtpipe.data.pixels import RAW

        contract, graph = self.contract(), self._graph()
        if graph is None or contract is None or all(spec.dtype != RAW for spec in contract.inputs):
            return False
        from trtpipe.preflight.onnx_io import read_metadata

        folded = FoldedPreprocessing.in_metadata(read_metadata(graph.path), graph.path.name)
        if folded is not None:
            folded.refuse_another(data.image, graph.path.name)
        return folded is not None

    def first_samples(self, job: Job) -> tuple[Feed, ...]:
        """A few samples of the data that outputs are compared on, in feeds of one where the model takes any number."""
        from trtpipe.data.dataset import unbatched

        if self.first is None:
            dataset = self.dataset("evaluation-data", job) or self.dataset("calibration-data", job)
            if dataset is None:
                return ()
            with closing(iter(unbatched(dataset))) as samples:
                self.first = tuple(sample.feed for sample in islice(samples, _FIRST))
        return self.first


def _contract_of(graph: Artifact) -> IOContract:
    if graph.kind == "model" and graph.described:
        from trtpipe.report.stage_records import ExportRecord

        return ExportRecord.read(graph.sidecar).contract
    from trtpipe.preflight.onnx_io import read_contract

    return read_contract(graph.path)


def with_shapes(job: Job, state: RunState, progress: Progress) -> Job:
    """The job, with shapes from the calibration data where it asks for them and a graph tells what is dynamic.

    Raises:
        InputError: there is no real data, or it does not tell.
    """
    profile, contract = job.profile, state.contract()
    if contract is None or state.shapes_inferred:
        return job
    if not profile.auto_shapes:
        return job if profile.shapes or not state.complete_shapes else _with_ones(job, contract, state, progress)
    from trtpipe.data.synthetic import RandomDataset
    from trtpipe.dynamic.infer import infer_shapes

    given = profile.shapes[0] if profile.shapes else {}
    check_shapes(contract, profile.shapes, complete=False)
    data = state.dataset("calibration-data", job)
    if data is None or isinstance(data, RandomDataset):
        raise InputError(
            "shapes are to be inferred from calibration data, and none was given",
            "add --calib-data (or --calib RECIPE.toml), or give --min-shapes, --opt-shapes and --max-shapes",
        )
    inferred = infer_shapes(contract, data, given)
    progress.note(inferred.note)
    state.shapes_inferred = True
    return replace(job, profile=profile.model_copy(update={"shapes": (inferred.profile,)}))


def _with_ones(job: Job, contract: IOContract, state: RunState, progress: Progress) -> Job:
    """The job with size 1 for dimensions without a name, if all open dimensions are such; else as it is.

    A dimension that is to vary has a name. One that graph editors leave open without a name mostly is a batch that
    nobody thought of; trtexec takes 1 for it as well.
    """
    open_inputs = {spec.name: spec.shape for spec in contract.inputs if is_dynamic(spec)}
    ones: dict[str, tuple[int, ...]] = {}
    for name, shape in open_inputs.items():
        if shape is None or any(isinstance(dim, str) for dim in shape):
            return job
        ones[name] = tuple(dim if isinstance(dim, int) else 1 for dim in shape)
    if not ones:
        return job
    state.shapes_inferred = True
    words = ", ".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in ones.items())
    progress.warn(f"dimensions without a name or a size are taken for 1, as no shapes are given: {words}")
    ranges = {name: ShapeRange(min=shape, opt=shape, max=shape) for name, shape in ones.items()}
    return replace(job, profile=job.profile.model_copy(update={"shapes": (ranges,)}))


def data_settings(role: Role, job: Job) -> DataSettings | None:
    """What a role's samples are read by; ``None`` where a recipe names no such data."""
    recipe = job.recipe
    if role == "calibration-data":
        classes = recipe.data.classes or recipe.classes
        labels = recipe.data.labels or _labels_beside(recipe)
        return recipe.data.model_copy(update={"classes": classes, "labels": labels}) if recipe.data.source else None
    if recipe.evaluation is None or not recipe.evaluation.source:
        return None
    given = recipe.evaluation.model_dump(include=set(DataSettings.model_fields), exclude_unset=True)
    settings = DataSettings.model_validate(given)
    return settings.model_copy(
        update={"classes": settings.classes or recipe.classes or _folder_classes(recipe.data, settings)}
    )


def _labels_beside(recipe: CalibrationRecipe) -> str:
    """The evaluation's name for labels, where the ``.npz`` to calibrate on has such an array, which is no input."""
    from trtpipe.data.npz import read_members

    name = "" if recipe.evaluation is None else recipe.evaluation.labels
    path = Path(recipe.data.source)
    return name if name and path.suffix == ".npz" and path.is_file() and name in read_members(path) else ""


def check_classes(job: Job) -> None:
    """Complain before the long work that a sub-folder is none of the classes that are known.

    Raises:
        InputError: one is not; the remedy names the nearest class.
    """
    from trtpipe.data.folder import recognizes

    roles: tuple[Role, ...] = ("calibration-data", "evaluation-data")
    for role in roles:
        settings = None if role in job.feeds else data_settings(role, job)
        if settings is not None and settings.classes and recognizes(settings.source):
            _list_of(settings)(Path(settings.source), settings.classes)


def _list_of(data: DataSettings) -> Callable[..., Listing]:
    from trtpipe.data.images import list_images
    from trtpipe.data.sounds import list_sounds

    return list_sounds if data.audio else list_images


def _folder_classes(data: DataSettings, evaluation: DataSettings) -> tuple[str, ...]:
    """The classes of the calibration data, where what is evaluated is a folder of these, maybe of some only.

    A folder that lacks one of them, and has one that is none of them, cannot number its own.
    """
    from trtpipe.data.folder import recognizes

    if data.classes or not (recognizes(data.source) and recognizes(evaluation.source)):
        return data.classes
    known, found = (_list_of(data)(Path(each.source)).classes for each in (data, evaluation))
    alike = {name.casefold() for name in found} & {name.casefold() for name in known}
    return known if alike and not set(known) <= set(found) else ()


def artifact_from_file(kind: str, path: Path, target: str | None = None, *, seal_in: Path | None = None) -> Artifact:
    """A file of the user's as an artifact: digested, with its external data or its sidecar.

    Args:
        seal_in: a private folder for a copy of a graph, which then is the artifact.

    Raises:
        InputError: the file is missing or, for a graph, not ONNX.
    """
    if kind in GRAPHS:
        from trtpipe.preflight import seal_model
        from trtpipe.preflight.onnx_io import external_refs, read_proto

        path = path if seal_in is None else seal_model(path, seal_in)
        proto = read_proto(path)
        extra = sorted({ref.location for ref in external_refs(proto, path)})
    elif path.is_file():
        extra = [f"{path.name}.json"] if path.with_name(f"{path.name}.json").is_file() else []
    else:
        raise InputError(f"{path}: no such file", "check the path")
    entries = (FileEntry.of(path), *(FileEntry.of(path.parent / name, name) for name in extra))
    return Artifact(kind=kind, folder=path.parent, files=entries, target=target)
