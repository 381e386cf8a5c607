"""What export asks of a child process, and what the child answers."""

from __future__ import annotations

from trtpipe.artifact import Record
from trtpipe.config.formats import FULL_PRECISION, Precision

MODEL = "model.onnx"


class OnnxRequest(Record):
    """Check the sealed model ``source`` and write it anew, external data and all, into ``workdir``.

    Attributes:
        label: how the user calls it.
    """

    source: str
    workdir: str
    label: str


class TorchRequest(Record):
    """Export a PyTorch program.

    Attributes:
        module, function: the factory; ``function`` is empty for a ``.pt2`` file, whose path ``module`` then is.
        shapes: input name -> (min, opt, max) of every input with a range in the profile.
        input_names, output_names: names to give; empty for the program's own.
        precision: whose 16-bit format heavy operators shall compute in; an ONNX export leaves that to lowering.
    """

    module: str
    function: str
    workdir: str
    opset: int
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    precision: Precision = FULL_PRECISION


class ExportReply(Record):
    """Names of the files written into the work folder, and every file of the user's that was read."""

    names: tuple[str, ...]
    files_read: tuple[str, ...] = ()


PROGRAM = "program.pt2"


SIMPLIFIED = "simplified.onnx"


#: The phase in which the model is run as it came, the first time that any library runs it.
RUN = "run the model"


class SimplifyRequest(Record):
    """Rewrite ``model`` into ``workdir``.

    Attributes:
        onnxsim: whether onnxsim may try.
        rewrite: whether operators may be expanded and the opset raised.
        opset: least opset of the result.
        feeds: an ``.npz`` with real samples for the numerical check; empty for seeded random ones.
        shapes: shapes of dynamic inputs, for random samples.
        fixed: those of their dimensions, or values, that are the same in every profile at every corner.
        notes: what an earlier attempt left to say.
    """

    model: str
    workdir: str
    onnxsim: bool
    rewrite: bool = True
    opset: int
    feeds: str
    shapes: dict[str, tuple[int, ...]]
    fixed: dict[str, tuple[int | None, ...]] = {}
    notes: tuple[str, ...] = ()


class SimplifyReply(Record):
    """Names of the files written."""

    names: tuple[str, ...]
