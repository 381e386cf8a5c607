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
    from trtpipe.passes.graph_pass import GraphPass, NodeDecision
    from trtpipe.progress import Progress

LOWERED = "lowered.onnx"


class Lower:
    """Writes the precision into the graph: Q/DQ pairs, or casts; and records the decision for every node."""

    name = "lower"
    produces = "lowered"
    version = 5
    packages = ("onnx-ir", "onnx", "numpy", "ml-dtypes")

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The simplified graph; ranges for 8 bits."""
        return ("simplified", "ranges") if job.profile.precision in CALIBRATED else ("simplified",)

    def skip(self, job: Job) -> str | None:
        """Never: fp32 is a precision like any other."""
        return None

    def key(self, job: Job) -> JSON:
        """The precision, the nodes the user keeps high, how far the scales of weights reach, the shapes work is
        counted at.
        """
        eight_bit = job.profile.precision in CALIBRATED
        return {
            "precision": job.profile.precision,
            "keep": list(job.profile.keep),
            "weights": job.recipe.weights if eight_bit else None,
            "shapes": {name: list(shape) for name, shape in job.opt_shapes.items()} if eight_bit else None,
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """No back-end."""
        return {}

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Rewrite the graph."""
        from trtpipe.onnxfile import load_model, save_model
        from trtpipe.passes.clean_up import clean_up
        from trtpipe.passes.decisions import work_share
        from trtpipe.passes.graph_pass import run_passes
        from trtpipe.passes.macs import sizes_of

        precision = job.profile.precision
        model = load_model(inputs.path("simplified"))
        clean_up(model)
        results = run_passes(model, _passes(job, inputs, sizes_of(model, job.opt_shapes)))
        decisions = [decision for result in results for decision in result.decisions]
        path = workdir / LOWERED
        names = save_model(model, path)
        notes = _notes(job, decisions)
        for note in notes:
            progress.warn(note)
        facts = LowerFacts(
            precision=precision,
            opset=model.graph.opset_imports.get("", 0),
            counts=dict(sorted(Counter(decision.precision for decision in decisions).items())),
            nodes=tuple(decisions),
            work=work_share(decisions) if precision in CALIBRATED else None,
            notes=tuple(notes),
        )
        facts.write(path.with_name(f"{LOWERED}.json"))
        return Draft("lowered", workdir, (*names, f"{LOWERED}.json")), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """The interface is what it was."""
        broken = read_contract(inputs.path("simplified")).difference(read_contract(draft.path))
        if broken:
            raise StageError(f"lowering changed the interface: {broken}", "report this with the model")


def _passes(job: Job, inputs: Inputs, sizes: dict[str, int]) -> list[GraphPass]:
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
    return [InsertQDQ(precision, amax, keep, job.recipe.weights, sizes=sizes)]


def _notes(job: Job, decisions: list[NodeDecision]) -> list[str]:
    """What deserves attention: a lowering that changed nothing, or little; patterns that match nothing."""
    from trtpipe.passes.decisions import shortfall, unmatched

    precision = job.profile.precision
    if precision == "fp32":
        return []
    notes = unmatched(job.profile.keep, decisions)
    wanted = {"fp16": "float16", "bf16": "bfloat16"}.get(precision, precision)
    if all(decision.precision != wanted for decision in decisions):
        notes.append(
            f"no node could be lowered to {precision}: the engine will compute in float32 (see {LOWERED}.json)"
        )
    elif precision in CALIBRATED and (sentence := shortfall(decisions)) is not None:
        notes.append(sentence)
    return notes
