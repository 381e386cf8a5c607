"""What TensorRT says when it cannot: its log, made into one line that names the node, and one that says what to do."""

from __future__ import annotations

import re
from typing import Any

from trtpipe.backends._trt_layers import DUMP_MARK
from trtpipe.errors import BuildError

#: Said after every message where there is no driver, and by every builder after the first in a process.
_NOISE = ("cudaError 35", "The logger passed into createInfer")
_MOST_WARNINGS, _MOST_ERRORS, _LENGTH = 20, 5, 400
_BYTES = re.compile(r"(?:Total|Max) (?P<what>Activation|Weights|Scratch) Memory: (?P<bytes>\d+)")

#: What to do about an error: the first pattern found in its text decides.
_GUIDE: tuple[tuple[str, str], ...] = (
    (
        "FP32 GEMM is not supported",
        "build with --fp16, or leave sm75 out: TensorRT-RTX has no float32 matrix product there",
    ),
    (
        "HW-specific datatypes",
        "choose a precision the target computes (bf16 and int4 from sm80, fp8 from sm89, fp4 from sm100), or drop it",
    ),
    (
        r"only allowed before DQ|not consumed by .*IDequantizeLayer",
        "put the weight and its DequantizeLinear into the same graph as its user, or keep that node in float32",
    ),
    (r"same (?:input |data )*types?", "cast the operands of that node to one type"),
    ("must match", "correct the shapes of that node's inputs"),
    ("optimization profile|missing dimensions in profile", "give --min-shapes, --opt-shapes and --max-shapes"),
    (
        "OutOfMemory|workspace limit|insufficient workspace",
        "allow more scratch memory (--workspace), or smaller max shapes",
    ),
    (r"has no runners", "TensorRT has no kernel for that node: move it behind the engine, or replace it"),
    (r"^false\b|[Pp]lugin", "replace the operator by ones TensorRT has, or install its plugin"),
    (
        "Attention operation was not supported|is_decomposable",
        "export at opset 22 or lower, which has no Attention operator",
    ),
    ("[Nn]on-zero zero point", "quantise symmetrically: TensorRT wants every zero point to be 0"),
    ("blocking dimension", "block along the last or second-to-last axis of the weight"),
    ("import initializer|Failed to open file|external weights", "make the model self-contained again: trtpipe export"),
    ("sort the model topologically|was not registered", "check the graph's connections: python -m onnx.checker MODEL"),
    ("nested structures", "flatten the nested If and Loop operators"),
    ("implementation for node", "keep that node in float32, allow more --workspace, or replace it"),
)
_DEFAULT_REMEDY = "replace the node named, keep it in float32, or try another target or back-end"

#: The builder's words for a type that only Q/DQ layers and plug-ins may touch; it lists the latter at length.
_BOUND_TYPE = re.compile(r"Tensor (?P<name>\S+) has datatype (?P<type>\w+) but is not (?P<how>consumed|produced) by .*")
_BOUND_TO = {"consumed": "only DequantizeLinear can read", "produced": "only QuantizeLinear can produce"}

#: Wrapping that means nothing to a user, taken off in this order.
_WRAPPING = (
    r"^\w+\.cpp:\d+: ",
    r"^\[\w+\.cpp::[^\]]*\] ",
    r"^I\w+::\w+: ",
    r"^Error Code \d+: ",
    r"^(?:Myelin|API Usage Error|Internal Error) \((?=.)",
    r"\[\w+\.(?:cpp|h):\d+: \w+\] ",
    r"\s*In \w+ at \S+:\d+\)?",
    r"^Assertion failed: .*?: (?=[A-Za-z])",
)


class Log:
    """Collects what TensorRT says. ``logger`` is the object to hand to TensorRT.

    Attributes:
        errors, warnings: each message once, in order, without noise.
        dump: the message that lists the engine's layers; empty until there is one.
        sizes: ``Activation``, ``Weights`` and ``Scratch`` -> bytes, as the builder reports them.
    """

    def __init__(self, trt: Any) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.dump = ""
        self.sizes: dict[str, int] = {}
        take = self._take
        error, warning = trt.ILogger.ERROR, trt.ILogger.WARNING

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                take(int(severity) <= int(error), int(severity) == int(warning), message)

        self.logger = Logger()

    def _take(self, is_error: bool, is_warning: bool, message: str) -> None:
        if is_error or is_warning:
            kept = self.errors if is_error else self.warnings
            if message not in kept and not _is_noise(message):
                kept.append(message)
        elif DUMP_MARK in message:
            self.dump = message
        elif found := _BYTES.search(message):
            self.sizes[found["what"]] = int(found["bytes"])

    def telling_warnings(self) -> tuple[str, ...]:
        """The first warnings, cut to a readable length."""
        return tuple(message[:_LENGTH] for message in self.warnings[:_MOST_WARNINGS])


def parse_error(parser: Any, log: Log, model: str) -> BuildError:
    """Why TensorRT's ONNX parser refuses ``model``: every node it names, with operator and reason."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reasons = list(dict.fromkeys(_parser_reason(error, log) for error in errors)) or _said(log)
    raw = " ".join([*(error.desc() for error in errors), *log.errors])
    more = f"; and {len(reasons) - _MOST_ERRORS} more" if len(reasons) > _MOST_ERRORS else ""
    reason = "; ".join(reasons[:_MOST_ERRORS]) or "it gives no reason"
    return BuildError(f"{model}: TensorRT cannot parse it: {reason}{more}", remedy_for(raw))


def build_error(log: Log, model: str, target: str) -> BuildError:
    """Why the builder gave up, as far as its log says."""
    reasons = _said(log) or ["the builder gives no reason"]
    return BuildError(f"{model}: cannot be built for {target}: {'; '.join(reasons)}", remedy_for(" ".join(log.errors)))


def remedy_for(text: str) -> str:
    """What to do about an error that reads ``text``."""
    for pattern, remedy in _GUIDE:
        if re.search(pattern, text):
            return remedy
    return _DEFAULT_REMEDY


def tidy(message: str) -> str:
    """A message of TensorRT's on one line, without file names, line numbers and error codes."""
    text = " ".join(message.split())
    for wrapping in _WRAPPING:
        text = re.sub(wrapping, "", text)
    if bound := _BOUND_TYPE.search(text):
        return f"tensor {bound['name']!r} is {bound['type']}, which {_BOUND_TO[bound['how']]}"
    quoted = re.search(r'&& "(.+)"$', text)
    return (quoted[1] if quoted else text)[:_LENGTH]


def _is_noise(message: str) -> bool:
    return any(noise in message for noise in _NOISE)


def _said(log: Log) -> list[str]:
    return list(dict.fromkeys(tidy(message) for message in log.errors))[:2]


def _parser_reason(error: Any, log: Log) -> str:
    description = error.desc()
    lines = (line for line in description.splitlines() if not line.startswith("Invalid Node") and not _is_noise(line))
    reason = "this operator is not supported" if description == "false" else "; ".join(map(tidy, lines))
    if "import initializer" in reason:  # only the log knows why
        reason = "; ".join([reason, *(tidy(said) for said in log.errors if not said.startswith("ModelImporter"))])
    if not error.node_operator():
        return reason
    name = error.node_name() or f"number {error.node()}"
    inside = "".join(f", in function {function}" for function in error.local_function_stack())
    return f"node {name!r} ({error.node_operator()}{inside}): {reason}"
