"""TensorRT's log, and errors made of it: a message that names the node, and a remedy."""

from __future__ import annotations

import re
from typing import Any

from trtpipe.backends.trt.error_guide import advice_for
from trtpipe.errors import BuildError

#: Occurs in the message that lists the layers of an engine, and in no other.
DUMP_MARK = "Layers:\nName: "
#: Repeated for every message without a driver, and for every builder after the first in a process.
_NOISE = ("cudaError 35", "The logger passed into createInfer")
_MOST_WARNINGS, _MOST_ERRORS, _LENGTH = 20, 5, 400
_BYTES = re.compile(r"(?:Total|Max) (?P<what>Activation|Weights|Scratch) Memory: (?P<bytes>\d+)")

#: The builder's message for a type that only Q/DQ layers and plug-ins may use; it lists the plug-ins at length.
_BOUND_TYPE = re.compile(r"Tensor (?P<name>\S+) has datatype (?P<type>\w+) but is not (?P<how>consumed|produced) by .*")
_BOUND_TO = {"consumed": "only DequantizeLinear can read", "produced": "only QuantizeLinear can produce"}

#: Prefixes and source positions without meaning for a user, removed in this order.
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
    """Collects TensorRT's messages. ``logger`` is the object to pass to TensorRT.

    Attributes:
        errors, warnings: each message once, in order, without noise.
        dump: the message that lists the engine's layers, if there is one.
        sizes: ``Activation``, ``Weights`` and ``Scratch`` -> bytes, reported by the builder (not measured).
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

    def first_warnings(self) -> tuple[str, ...]:
        """The first warnings, cut to a readable length."""
        return tuple(message[:_LENGTH] for message in self.warnings[:_MOST_WARNINGS])


def parse_error(parser: Any, log: Log, model: str) -> BuildError:
    """Why TensorRT's ONNX parser refuses ``model``: every node it names, with operator and reason."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    raw = " ".join([*(error.desc() for error in errors), *log.errors])
    whole = advice_for(raw).whole
    reasons = list(dict.fromkeys(_parser_reason(error, log, whole=whole) for error in errors))
    reasons = reasons or _reasons(log, whole=whole)
    more = f"; and {len(reasons) - _MOST_ERRORS} more" if len(reasons) > _MOST_ERRORS else ""
    reason = "; ".join(reasons[:_MOST_ERRORS]) or "no reason given"
    return BuildError(f"{model}: TensorRT cannot parse it: {reason}{more}", remedy_for(raw))


def build_error(log: Log, model: str, target: str) -> BuildError:
    """Why the build failed, as far as the log tells. What the error guide does not know is passed on in full."""
    raw = " ".join(log.errors)
    reasons = _reasons(log, whole=advice_for(raw).whole) or ["no reason given"]
    return BuildError(f"{model}: cannot be built for {target}: {'; '.join(reasons)}", remedy_for(raw))


def remedy_for(text: str) -> str:
    """The cause of ``text``, where the error guide knows it, and what to do."""
    return advice_for(text).whole_remedy


def tidy(message: str, *, whole: bool = False) -> str:
    """A TensorRT message on one line, without file names, line numbers and error codes; cut unless ``whole``."""
    text = " ".join(message.split())
    for wrapping in _WRAPPING:
        text = re.sub(wrapping, "", text)
    if bound := _BOUND_TYPE.search(text):
        return f"tensor {bound['name']!r} is {bound['type']}, which {_BOUND_TO[bound['how']]}"
    quoted = re.search(r'&& "(.+)"$', text)
    text = quoted[1] if quoted else text
    return text if whole else text[:_LENGTH]


def _is_noise(message: str) -> bool:
    return any(noise in message for noise in _NOISE)


def _reasons(log: Log, *, whole: bool) -> list[str]:
    found = list(dict.fromkeys(tidy(message, whole=whole) for message in log.errors))
    return found if whole else found[:2]


def _parser_reason(error: Any, log: Log, *, whole: bool) -> str:
    description = error.desc()
    lines = (line for line in description.splitlines() if not line.startswith("Invalid Node") and not _is_noise(line))
    reason = (
        "this operator is not supported"
        if description == "false"
        else "; ".join(tidy(line, whole=whole) for line in lines)
    )
    if "import initializer" in reason:  # the reason is in the log
        reason = "; ".join([reason, *(tidy(found) for found in log.errors if not found.startswith("ModelImporter"))])
    if not error.node_operator():
        return reason
    name = error.node_name() or f"number {error.node()}"
    inside = "".join(f", in function {function}" for function in error.local_function_stack())
    return f"node {name!r} ({error.node_operator()}{inside}): {reason}"
