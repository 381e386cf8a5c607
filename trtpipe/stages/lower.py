"""lower: ``simplified.onnx`` (and ranges) -> ``lowered.onnx``; from here on the precision is in the graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.errors import StageError
from trtpipe.onnxfile import read_contract
from trtpipe.profile import CALIBRATED
from trtpipe.stages.facts import LowerFacts

if TYPE_CHECKING:
    from trtpipe.digest import JSON
    from trtpipe.job import Inputs, Job
    from trtpipe.passes.graph_pass import GraphPass
    from trtpipe.progress import Progress

LOWERED = "lowered.onnx"


class Lower:
    """Writes the precision into the graph: Q/DQ pairs, or casts; and records the decision for every node."""

    name = "lower"
    produces = "lowered"
    version = 4
    packages = ("onnx-ir", "onnx", "numpy", "ml-dtypes")

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The simplified graph; ranges for 8 bits."""
        return ("simplified", "ranges") if job.profile.precision in CALIBRATED else ("simplified",)

    def skip(self, job: Job) -> str | None:
        """Never: fp32 is a precision like any other."""
        return None

    def key(self, job: Job) -> JSON:
        """The precision, the nodes the user keeps high, and how far the scales of weights reach."""
        eight_bit = job.profile.precision in CALIBRATED
        return {
            "precision": job.profile.precision,
            "keep": list(job.profile.keep),
            "weights": job.recipe.weights if eight_bit else None,
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """No back-end."""
        return {}

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Rewrite the graph."""
        from trtpipe.onnxfile import load_model, save_model
        from trtpipe.passes.clean_up import clean_up
        from trtpipe.passes.graph_pass import run_passes

        precision = job.profile.precision
        model = load_model(inputs.path("simplified"))
        clean_up(model)
        results = run_passes(model, _passes(job, inputs))
        decisions = [decision for result in results for decision in result.decisions]
        path = workdir / LOWERED
        names = save_model(model, path)
        notes = _notes(job, [decision.precision for decision in decisions])
        for note in notes:
            progress.warn(note)
        facts = LowerFacts(
            precision=precision,
            opset=model.graph.opset_imports.get("", 0),
            counts=dict(sorted(Counter(decision.precision for decision in decisions).items())),
            nodes=tuple(decisions),
            notes=tuple(notes),
        )
        facts.write(path.with_name(f"{LOWERED}.json"))
        return Draft("lowered", workdir, (*names, f"{LOWERED}.json")), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """The interface is what it was."""
        broken = read_contract(inputs.path("simplified")).difference(read_contract(draft.path))
        if broken:
            raise StageError(f"lowering changed the interface: {broken}", "report this with the model")


def _passes(job: Job, inputs: Inputs) -> list[GraphPass]:
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.passes.cast_precision import CastPrecision
    from trtpipe.passes.insert_qdq import InsertQDQ

    precision, keep = job.profile.precision, job.profile.keep
    if precision == "fp32":
        return []
    if precision == "fp16":
        return [CastPrecision("float16", keep)]
    if precision == "bf16":
        return [CastPrecision("bfloat16", keep)]
    ranges = Ranges.read(inputs.path("ranges"))
    amax = {name: found.amax for name, found in ranges.tensors.items()}
    return [InsertQDQ(precision, amax, keep, job.recipe.weights)]


def _notes(job: Job, precisions: list[str]) -> list[str]:
    """A lowering that changed nothing must not pass for one that did."""
    wanted = {"fp16": "float16", "bf16": "bfloat16"}.get(job.profile.precision, job.profile.precision)
    if job.profile.precision == "fp32" or wanted in precisions:
        return []
    return [
        f"no node could be lowered to {job.profile.precision}: the engine will compute in float32 (see {LOWERED}.json)"
    ]
