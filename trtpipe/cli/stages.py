"""The commands that run one stage: what it takes, what it makes, and the command that people usually need next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.options import PATH, command
from trtpipe.cli.results import beside, explained, finish, print_document
from trtpipe.cli.tables import show
from trtpipe.cli.text import emit
from trtpipe.errors import InputError
from trtpipe.views.results import comparison, latency

if TYPE_CHECKING:
    from trtpipe.cli.session import Session


@command(
    click.argument("source"),
    options.out_option,
    options.profile_file_option,
    options.shape_options,
    options.export_options,
)
def export(session: Session, source: str) -> int:
    """Export a PyTorch model to ONNX, and compare the outputs of both.

    SOURCE is model.pt2, file.py:factory or package.module:factory; an .onnx file is checked and made self-contained.
    Shapes given with --min-shapes and --max-shapes make the dimensions in which they differ dynamic.
    """
    import trtpipe

    with session.listening() as progress:
        result = trtpipe.export(source, session.output, **session.request(progress))
    made = beside(result)
    return finish(session, "export", result, ["simplify", made(), "-o", made("simplified.onnx")])


@command(
    click.argument("model", type=PATH),
    options.out_option,
    options.profile_file_option,
    options.precision_options,
    options.shape_options,
)
def simplify(session: Session, model: Path) -> int:
    """Simplify a graph: the same function in fewer nodes.

    The result is compared with MODEL on random inputs of the shapes given. The precision matters only because BF16
    needs a newer opset.
    """
    import trtpipe

    with session.listening() as progress:
        result = trtpipe.simplify(model, session.output, **session.request(progress))
    made = beside(result)
    return finish(session, "simplify", result, ["lower", made(), "--fp16", "-o", made("lowered.onnx")])


@command(
    click.argument("model", type=PATH),
    options.out_option,
    options.precision_options,
    click.option("--ranges", type=PATH, metavar="R", help="ranges.json, for INT8 and FP8."),
    options.profile_file_option,
    options.weights_option,
    options.keep_option,
    options.explain_option,
)
def lower(session: Session, model: Path, ranges: Path | None, explain: str | None) -> int:
    """Write the precision into a graph: Q/DQ pairs, or casts.

    MODEL is a simplified graph. The precision of every node and the reason for it are recorded beside the result;
    trtpipe inspect shows them.
    """
    import trtpipe

    with session.listening() as progress:
        result = trtpipe.lower(model, session.output, ranges=ranges, **session.request(progress))
    made = beside(result)
    if explain is not None:
        return explained(session, "lower", Path(made()), explain)
    return finish(session, "lower", result, ["verify", made(), "--reference", str(model)])


@command(
    click.argument("lowered", type=PATH),
    options.out_option,
    options.precision_options,
    options.target_options,
    options.profile_file_option,
    options.shape_options,
    options.shape_data_options,
    options.builder_options,
)
def compile(session: Session, lowered: Path) -> int:
    """Build an engine from a lowered graph for every target.

    With --backend torch-tensorrt, LOWERED is the PyTorch source, a .pt2 file or a factory, compiled without ONNX in the
    precision given.

    OUT is a folder; for one target also a .plan or .engine file. The engine's record is written beside it.
    """
    import trtpipe

    with session.listening() as progress:
        result = trtpipe.compile(lowered, session.output, **session.request(progress))
    return finish(session, "compile", result)


@command(
    click.argument("candidate", type=PATH, required=False),
    click.option("--reference", type=PATH, metavar="MODEL", help="Reference graph."),
    click.option(
        "--reuse",
        type=PATH,
        metavar="PARITY",
        help="Apply tolerances to a parity.json and the outputs beside it, without running anything.",
    ),
    options.report_option,
    options.evaluation_options("--data"),
    options.recipe_file_option,
    options.tolerance_options,
    options.precision_options,
    options.profile_file_option,
    options.shape_options,
    options.target_options,
)
def verify(session: Session, candidate: Path | None, reference: Path | None, reuse: Path | None) -> int:
    """Compare the outputs of a graph or an engine with a reference.

    CANDIDATE is a lowered graph or an engine. Without data, seeded random inputs are used. Default tolerances depend
    on the precision, which is recorded beside a graph made by trtpipe. Exit code 3 if the outputs or the metric exceed
    the tolerance. With --reuse, give neither CANDIDATE nor --reference.
    """
    import trtpipe

    if reuse is not None:
        if candidate is not None or reference is not None:
            raise InputError("--reuse applies tolerances to an earlier run: it runs nothing", "remove the other files")
        return finish(session, "verify", trtpipe.reevaluate(reuse, session.profile, session.out))
    if candidate is None or reference is None:
        missing = "CANDIDATE" if candidate is None else "--reference"
        raise InputError(f"{missing} is missing", "write trtpipe verify lowered.onnx --reference model.onnx")
    with session.listening() as progress:
        session.learn(candidate)
        result = trtpipe.verify(candidate, reference, session.out, **session.request(progress))
    return finish(session, "verify", result)


@command(
    click.argument("model", type=PATH),
    click.argument("other", type=PATH, required=False),
    click.option(
        "--graph", type=PATH, metavar="LOWERED", help="Lowered graph of the engine (default: lowered.onnx beside it)."
    ),
    options.report_option,
    options.protocol_options,
    options.batch_option,
    options.input_options,
    options.recipe_file_option,
    options.profile_file_option,
    options.shape_options,
    options.target_options,
)
def measure(session: Session, model: Path, other: Path | None, graph: Path | None) -> int:
    """Measure the latency of an engine on a GPU, or of a graph on the CPU.

    MODEL is a plan or an ONNX file. CPU latency is labeled as such: it says nothing about a GPU. --shapes given several
    times, and --batch, measure at each shape. With OTHER both run alternately, and the ratio of their latencies is
    given with its confidence interval. Exit code 4 if the p99 on a GPU exceeds --max-p99.
    """
    import trtpipe

    with session.listening() as progress:
        session.learn(model)
        if other is None:
            result = trtpipe.measure(model, session.out, graph=graph, **session.request(progress))
        else:
            compared = trtpipe.compare_latency(model, other, session.out, graph=graph, **session.request(progress))
    if other is not None:
        session.out = None
        if session.json:
            return print_document("measure", {"comparison": compared.to_dict()})
        emit("\n".join(map(show, comparison(compared))))
        return 0
    if not session.json and result.latency is not None:
        emit("\n".join(map(show, latency(result.latency))))
    return finish(session, "measure", result)
