"""measure: how long one inference takes, on the GPU where there is one -> ``latency.json``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.backends.gpu import gpus
from trtpipe.config.build_request import NotNeeded, typical_shapes
from trtpipe.config.stage_settings import MeasureSettings
from trtpipe.config.toolchain import machine
from trtpipe.engine.record import EngineFigures, EngineRecord
from trtpipe.errors import StageError
from trtpipe.reference.runnable import runnable_graph, runnable_targets
from trtpipe.stages.stage import SAMPLES, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.backends.base import OpenRunner
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.settings import Settings
    from trtpipe.latency.feeds import InputSource
    from trtpipe.latency.reports import Latency
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

LATENCY = "latency.json"
_CPU_NOTE = "measured on the CPU with onnxruntime: this is not a GPU latency"


class Measure(Stage[MeasureSettings]):
    """Times the engines this machine can run; a graph on the CPU where that is asked for, and says so."""

    name = "measure"
    produces = "latency"
    version = 5
    packages = ("onnxruntime",)

    def settings(self, request: BuildRequest) -> MeasureSettings | NotNeeded:
        profile = request.profile
        targets = tuple(target.name for target in request.targets)
        if (
            (targets or request.handed_over)
            and not profile.latency.cpu
            and not runnable_targets(request.backend, targets)
        ):
            return NotNeeded(reason="not measured here: no GPU of this machine runs these engines")
        half = profile.precision.half
        return MeasureSettings(
            latency=profile.latency.measuring,
            shapes=typical_shapes(profile) if profile.shapes else (),
            emulated=None if half is None or half.cpu_kernels else half,
            backend=request.backend,
            targets=targets,
        )

    def consumes(self, settings: MeasureSettings) -> tuple[str, ...]:
        return ("engine", "lowered", SAMPLES)

    def fingerprint(self, settings: MeasureSettings, runtime: Settings) -> dict[str, str]:
        """This machine: the one stage whose result depends on it."""
        found = {name: str(value) for name, value in machine().items()}
        here = ", ".join(f"{gpu.name} {gpu.driver}" for gpu in gpus())
        backend = load_backend(settings.backend).fingerprint(runtime)
        return {**found, "threads": str(runtime.threads), "gpus": here, **backend}

    def run(
        self, settings: MeasureSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> Draft:
        from trtpipe.latency.feeds import InputSource
        from trtpipe.latency.reports import LatencyReport

        source = InputSource.of(inputs.samples)
        found: list[Latency] = []
        engines = inputs.engines(runnable_targets(settings.backend, settings.targets))
        for engine in engines:
            with load_backend(settings.backend).open(engine.path, runtime) as runner:
                found += _measured(runner, engine.label, settings, inputs, source, progress, on_gpu=True)
        if not engines and (settings.latency.cpu or not settings.targets):
            graph, _ = runnable_graph(inputs.path("lowered"), settings.emulated, workdir)
            with load_backend("onnxruntime").open(graph, runtime) as runner:
                found += _measured(runner, "lowered", settings, inputs, source, progress, on_gpu=False)
        for leftover in workdir.iterdir():
            leftover.unlink()
        report = LatencyReport(
            machine=machine(),
            measurements=tuple(found),
            engines={
                engine.label: EngineFigures.of(EngineRecord.read(engine.sidecar), engine.files[0].size)
                for engine in inputs.engines()
                if engine.described
            },
            notes=() if any(figure.on_gpu for figure in found) else (_CPU_NOTE,),
        )
        report.write(workdir / LATENCY)
        return Draft("latency", workdir, (LATENCY,))

    def check(self, draft: Draft, inputs: Inputs) -> None:
        from trtpipe.latency.reports import LatencyReport

        for figure in LatencyReport.read(draft.path).measurements:
            if not 0 < figure.min <= figure.median <= figure.max:
                raise StageError(f"{figure.artifact}: impossible run times", "report this as a bug")


def _measured(
    runner: OpenRunner,
    label: str,
    settings: MeasureSettings,
    inputs: Inputs,
    source: InputSource,
    progress: Progress,
    *,
    on_gpu: bool,
) -> Iterator[Latency]:
    """One artifact on every shape."""
    from trtpipe.latency.feeds import points
    from trtpipe.latency.measuring import measure
    from trtpipe.preflight.onnx_io import read_contract

    # The lowered graph has names for its open dimensions.
    specs = read_contract(inputs.path("lowered")).inputs if "lowered" in inputs.artifacts else runner.inputs
    typical = list(settings.shapes)
    if not typical and runner.gpu is not None:
        typical = list(runner.gpu.opt_shapes)
    for shapes in points(specs, typical, source.sample, settings.latency.batches):
        feed, words = source.feed(specs, shapes)
        yield measure(runner, feed, words, settings.latency, label, progress, on_gpu=on_gpu)
