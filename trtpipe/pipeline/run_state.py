"""What a run holds: the artifacts made so far, the data sets, and files of the user's as artifacts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Artifact, FileEntry, IOContract
from trtpipe.config.recipe import DataSettings
from trtpipe.config.shapes import check_outputs, check_shapes
from trtpipe.config.stage_settings import typical_shapes
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.config.job import Job, Role
    from trtpipe.data.dataset import Dataset
    from trtpipe.progress import Progress

#: The artifacts that are ONNX graphs, in the order they are made.
GRAPHS = ("model", "simplified", "lowered")


@dataclass
class RunState:
    """What has been made so far. Lives for one run."""

    artifacts: dict[str, Artifact]
    complete_shapes: bool  # whether every dynamic input must have a range, because an engine will be built
    keys: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, Dataset] = field(default_factory=dict)
    contracts: dict[Artifact, IOContract] = field(default_factory=dict)  # what was read of graphs already
    unknown: set[str] = field(default_factory=set)  # kinds a plan cannot know, because they are to be built
    shapes_inferred: bool = False
    corners_checked: bool = False  # whether the model was seen to work at the profiles' corners

    def add(self, artifact: Artifact, key: str) -> None:
        """Put a stage's result where the next stages find it, with the digest of its key."""
        self.artifacts[artifact.label] = artifact
        self.keys[artifact.label] = key

    def contract(self) -> IOContract | None:
        """The model's inputs and outputs, from the export's sidecar where there is one, else from the graph itself."""
        artifact = next((self.artifacts[kind] for kind in GRAPHS if kind in self.artifacts), None)
        if artifact is None:
            return None
        if artifact not in self.contracts:
            self.contracts[artifact] = _contract_of(artifact)
        return self.contracts[artifact]

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

            settings, feeds = _data_settings(role, job), job.feeds.get(role)
            if settings is not None:
                limits = user_limits(job.settings)
                self.datasets[role] = (
                    open_dataset(settings, contract, limits) if feeds is None else hold_feeds(settings, contract, feeds)
                )
            elif role == "calibration-data" and job.allow_random:
                shapes = typical_shapes(job.profile)[0]
                self.datasets[role] = RandomDataset(contract, shapes, job.recipe.data.samples or 32, seed=0)
        return self.datasets.get(role)


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
    if not profile.auto_shapes or contract is None or state.shapes_inferred:
        return job
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


def _data_settings(role: Role, job: Job) -> DataSettings | None:
    recipe = job.recipe
    if role == "calibration-data":
        return recipe.data if recipe.data.source else None
    if recipe.evaluation is None or not recipe.evaluation.source:
        return None
    return DataSettings.model_validate(recipe.evaluation.model_dump(include=set(DataSettings.model_fields)))


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
