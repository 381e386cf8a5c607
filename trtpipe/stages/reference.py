"""reference: the PyTorch source and real data -> ``reference.npz``: what PyTorch itself says to a few samples.

The one stage besides export that runs PyTorch; verify compares every artifact with what it wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft, Observed, Record
from trtpipe.config.build_request import NotNeeded, synthetic_shapes
from trtpipe.config.preprocessing import FoldedPreprocessing
from trtpipe.config.source import FactorySource, ModuleSource, Pt2Source
from trtpipe.config.stage_settings import ReferenceSettings
from trtpipe.errors import InputError, InternalError
from trtpipe.exporter.process import call_on
from trtpipe.exporter.request import ExportReply
from trtpipe.isolation.worker import Report
from trtpipe.reference.pytorch_outputs import load_reference, save_reference
from trtpipe.reference.runnable import verification_data
from trtpipe.report.stage_records import ExportRecord
from trtpipe.stages.stage import SAMPLES, SOURCE, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.artifact import Feed
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.settings import Settings
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

REFERENCE = "reference.npz"
_FEEDS = "feeds.npz"
#: Samples PyTorch sees at most, and bytes they may take: a wrong export shows on the first.
_MOST_FEEDS, _MOST_BYTES = 16, 16 << 20


class ReferenceRequest(Record):
    """Run a program on saved feeds.

    Attributes:
        module, function: the factory; ``function`` is empty for a ``.pt2`` file, whose path ``module`` then is.
        outputs: names, in the order of the program's tensors.
        preprocessing, image_type: what the graph does to images, which the program takes in this type.
    """

    module: str
    function: str
    workdir: str
    outputs: tuple[str, ...]
    preprocessing: FoldedPreprocessing | None = None
    image_type: str = ""


class Reference(Stage[ReferenceSettings]):
    """PyTorch's own outputs on evenly spread samples of the verification data."""

    name = "reference"
    produces = "reference"
    version = 2
    packages = ("torch", "numpy")

    def settings(self, request: BuildRequest) -> ReferenceSettings | NotNeeded:
        if not isinstance(request.source, FactorySource | Pt2Source | ModuleSource):
            return NotNeeded(reason="the source is ONNX")
        if request.profile.requantize:
            return NotNeeded(reason="PyTorch computes with the quantizers that are taken out")
        folded = FoldedPreprocessing.of(request.profile, request.recipe)
        return ReferenceSettings(synthetic=synthetic_shapes(request), preprocessing=folded)

    def consumes(self, settings: ReferenceSettings) -> tuple[str, ...]:
        return (SOURCE, "model", SAMPLES)

    def run(
        self, settings: ReferenceSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> Draft:
        from trtpipe.data.selection import subsample_feeds
        from trtpipe.preflight.onnx_io import read_contract

        source = inputs.source
        contract = read_contract(inputs.path("model"))
        feeds = subsample_feeds(
            verification_data(inputs.datasets, inputs.graph(), settings.synthetic).dataset, _MOST_FEEDS, _MOST_BYTES
        )
        names = tuple(spec.name for spec in contract.outputs)
        model = inputs.artifacts["model"]
        image_type = ExportRecord.read(model.sidecar).image_type if settings.preprocessing and model.described else ""
        observed = Observed()
        if isinstance(source, ModuleSource):
            from trtpipe.exporter.torch_export import example_of, run_module

            example = example_of(source.module, source.example_inputs)
            given = prepared(feeds, settings.preprocessing, image_type)
            save_reference(workdir / REFERENCE, feeds, run_module(source.module, example, given, names))
        elif isinstance(source, FactorySource | Pt2Source):
            save_reference(workdir / _FEEDS, feeds, [])
            request = ReferenceRequest(
                module=source.module,
                function=source.function,
                workdir=str(workdir),
                outputs=names,
                preprocessing=settings.preprocessing,
                image_type=image_type,
            )
            task = "trtpipe.stages.reference:run_saved"
            observed = call_on(source, task, request, runtime, progress, "running", workdir).observed
            (workdir / _FEEDS).unlink()
        else:
            raise InternalError("reference was asked to run without a PyTorch source")
        return Draft("reference", workdir, (REFERENCE,), observed=observed)

    def check(self, draft: Draft, inputs: Inputs) -> None:
        load_reference(draft.path)


def prepared(feeds: Sequence[Feed], folded: FoldedPreprocessing | None, image_type: str) -> list[Feed]:
    """The feeds as the program takes them, whose images the graph prepares itself."""
    import ml_dtypes  # noqa: F401  registers its types with numpy by name

    from trtpipe.data.pixels import as_model_feed

    return [as_model_feed(feed, folded, image_type) for feed in feeds]


def run_saved(request: ReferenceRequest, report: Report) -> ExportReply:
    """Load the program and run it on the feeds in the work folder (in the child process).

    Raises:
        InputError: the program cannot be loaded, or fails on a sample.
    """
    from trtpipe.exporter.loading import load_program
    from trtpipe.exporter.torch_export import run_module
    from trtpipe.isolation.file_tracking import FileTracker

    workdir = Path(request.workdir)
    feeds, _ = load_reference(workdir / _FEEDS)
    if not feeds:
        raise InputError("there is no sample to run", "give at least one sample")
    report("load", 0, None)
    with FileTracker(workdir) as tracker:
        program, example = load_program(request.module, request.function)
        report("run", 0, None)
        outputs = run_module(
            program, example, prepared(feeds, request.preprocessing, request.image_type), request.outputs
        )
    save_reference(workdir / REFERENCE, feeds, outputs)
    return ExportReply(names=(REFERENCE,), observed=tracker.observed())
