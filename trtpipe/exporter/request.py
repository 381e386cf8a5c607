"""Requests of the stages export, capture and simplify to their child processes, and the replies."""

from __future__ import annotations

from trtpipe.artifact import Observed, Record
from trtpipe.config.preprocessing import FoldedPreprocessing
from trtpipe.config.recipe import DataSettings
from trtpipe.config.stage_settings import ExportStageSettings, NamedFormat

MODEL = "model.onnx"
PROGRAM = "program.pt2"
SIMPLIFIED = "simplified.onnx"

#: The phase of simplify in which a library first runs the model.
RUN = "run the model"


class OnnxRequest(Record):
    """Check the sealed model ``source`` and copy it with its external data into ``workdir``.

    Attributes:
        label: its path as the user gave it.
        settings: what becomes of it.
    """

    source: str
    workdir: str
    label: str
    settings: ExportStageSettings


class TorchRequest(Record):
    """Export a PyTorch program.

    Attributes:
        module, function: the factory; for a ``.pt2`` file ``module`` is its path and ``function`` is empty.
        shapes: input name -> (min, opt, max) of every input with a range in the profile.
        input_names, output_names: names to use; empty for the program's own.
        data: where example inputs come from if the factory returns none.
        preprocessing: what is done to images in that data before the program sees them.
        half: 16-bit format of heavy operators; none for float32, and for an ONNX export: lowering decides there.
        requantize: whether the program's own quantizers are taken out of the ONNX model.
    """

    module: str
    function: str
    workdir: str
    opset: int
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    data: DataSettings | None = None
    preprocessing: FoldedPreprocessing | None = None
    half: NamedFormat | None = None
    requantize: bool = False


class FoldRequest(Record):
    """Write the preprocessing of images in front of the model in ``workdir``.

    Attributes:
        shapes: of dynamic inputs, those of the bytes included; the result is compared with the model at them.
    """

    workdir: str
    preprocessing: FoldedPreprocessing
    shapes: dict[str, tuple[int, ...]]


class ExportReply(Record):
    """Names of the files written into the work folder, and what the user's code read."""

    names: tuple[str, ...]
    observed: Observed = Observed()


class SimplifyRequest(Record):
    """Rewrite ``model`` into ``workdir``.

    Attributes:
        onnxsim: whether onnxsim may try.
        rewrite: whether operators may be expanded and the opset raised.
        opset: least opset of the result.
        feeds: an ``.npz`` with real samples for the numerical check; empty for seeded random ones.
        shapes: shapes of dynamic inputs, for random samples.
        fixed: dimensions, or values, that are the same in every profile at min, opt and max.
        warnings: of earlier attempts.
    """

    model: str
    workdir: str
    onnxsim: bool
    rewrite: bool = True
    opset: int
    feeds: str
    shapes: dict[str, tuple[int, ...]]
    fixed: dict[str, tuple[int | None, ...]] = {}
    warnings: tuple[str, ...] = ()


class SimplifyReply(Record):
    """Names of the files written."""

    names: tuple[str, ...]
