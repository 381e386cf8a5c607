"""The error guide: causes and remedies of TensorRT's messages, searched from top to bottom.

Every entry comes from a real builder or from NVIDIA's documentation; tests/backends/trt/test_error_guide.py provokes
those that TensorRT-RTX has without a GPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """One kind of failure.

    Attributes:
        name: its name in tests and documentation.
        pattern: a regular expression that its messages match.
        cause: why it happens.
        remedy: what to do.
        whole: the cause is general, so the message is passed on in full.
        of_types: another type of the node may help, so that one that was lowered may be kept in float32.
    """

    name: str
    pattern: str
    cause: str
    remedy: str
    whole: bool = False
    of_types: bool = False

    @property
    def whole_remedy(self) -> str:
        """The cause, where there is one, and what to do."""
        return f"{self.cause}: {self.remedy}" if self.cause else self.remedy


GUIDE: tuple[Advice, ...] = (
    Advice(
        "cancelled",
        r"BuildCanceled|Build canceled",
        "the build was stopped through its progress monitor",
        "run the same command again",
    ),
    Advice(
        "turing",
        r"FP32 GEMM is not supported",
        "TensorRT-RTX has no float32 matrix product on Turing",
        "build with --fp16, or leave sm75 out",
    ),
    Advice(
        "types",
        r"HW-specific datatypes",
        "the target has no hardware for that type",
        "choose a precision the target computes (bf16 and int4 from sm80, fp8 from sm89, nvfp4 from sm100), or drop it",
    ),
    Advice(
        "quantized-constant",
        r"only allowed before DQ|not consumed by .*IDequantizeLayer",
        "a quantized weight is read by something other than a DequantizeLinear: a Transpose, or the body of an If",
        "put the weight and its DequantizeLinear into the same graph as its user",
        of_types=True,
    ),
    Advice(
        "quantized-tensor",
        r"not produced by .*IQuantizeLayer",
        "an 8-bit tensor is written by something other than a QuantizeLinear",
        "let inputs be float, or quantize them inside the model",
    ),
    Advice(
        "mixed-types",
        r"same (?:input |data )*types?\b",
        "every network is strongly typed, so nothing is cast silently",
        "cast the operands of that node to one type",
        of_types=True,
    ),
    Advice(
        "workspace",
        r"OutOfMemory|workspace limit|insufficient workspace|out of memory",
        "no kernel fits into the workspace limit",
        "raise the workspace limit (--workspace), or give smaller max shapes",
    ),
    Advice(
        "profile",
        r"optimization profile|missing dimensions in profile|missing values for shape input",
        "a dynamic input has no range, or one that does not fit",
        "give --min-shapes, --opt-shapes and --max-shapes",
    ),
    Advice(
        "shapes",
        r"must match|must be conformable|[Bb]roadcast|Condition '==' violated",
        "the shapes of a node's inputs contradict each other",
        "correct the shapes of that node's inputs",
    ),
    Advice(
        "too-large",
        r"exceeds the maximum supported element count|Count of weights exceeds maximum|volume exceeds",
        "a tensor has more elements than TensorRT can count",
        "correct that tensor's dimensions, or give smaller max shapes",
    ),
    Advice(
        "no-kernel",
        r"has no runners",
        "the parser knows the operator, but there is no kernel for it",
        "move that node out of the engine, or replace it",
    ),
    Advice(
        "refit",
        r"graph_jit\.cpp.*CUDA_SUCCESS",
        "TensorRT-RTX builds refittable and weight-stripped engines on a GPU only, and this machine has none",
        "leave out refit and strip_weights, or build on a machine with a GPU",
    ),
    Advice(
        "lean-runtime",
        r"libnvinfer_lean",
        "a version-compatible engine contains the lean runtime, which is not installed",
        "add exclude_lean_runtime, or install TensorRT's lean runtime",
    ),
    Advice(
        "attention",
        r"Attention operation was not supported|is_decomposable",
        "a fused attention kernel is required, and there is none for this type",
        "export at opset 22 or lower, which has no Attention operator",
    ),
    Advice(
        "zero-point",
        r"[Nn]on-zero zero point|shiftIsAllZeros",
        "TensorRT supports symmetric quantization only",
        "quantize with every zero point 0",
    ),
    Advice(
        "blocks",
        r"blocking dimension",
        "a weight is block-quantized along an axis that no kernel supports",
        "block along the last or second-to-last axis of the weight",
    ),
    Advice(
        "form",
        r"not supported currently|Only .* (?:is|are) supported currently",
        "TensorRT has the operator, but not in this form",
        "change the attribute or the combination that the message names, or compute this before or behind the engine",
    ),
    Advice(
        "operator",
        r"^false\b|[Pp]lugin|is not supported|No importer registered",
        "TensorRT has no such operator",
        "replace the operator by ones TensorRT has, or name a library with its plug-in in the profile's [build] table",
    ),
    Advice(
        "constant-input",
        r"must be an initializer|(?:should|must) (?:be|resolve to) (?:an? )?(?:\w+-time )?constant|as an initializer",
        "the value of that input has to be known at build time",
        "make it a constant of the model",
    ),
    Advice(
        "external-data",
        r"import initializer|Failed to open file|external weights",
        "the model's external data is missing, truncated or of a type TensorRT does not have",
        "make the model self-contained again: trtpipe export",
    ),
    Advice(
        "no-model",
        r"Failed to parse the ONNX model",
        "the file is no ONNX model, or is truncated",
        "export the model again; a small text file may be a Git LFS pointer",
    ),
    Advice(
        "connections",
        r"sort the model topologically|was not registered",
        "a node reads a tensor that no earlier node writes",
        "check the graph's connections: python -m onnx.checker MODEL",
    ),
    Advice(
        "branches",
        r"equal ranks when condition|ScopeType::kUNDEFINED|graphScope\.cpp",
        "the branches of an If return tensors of different rank, or contain such an If",
        "let trtpipe build resolve the If: give the size or value it depends on the same min, opt and max",
    ),
    Advice(
        "nesting",
        r"nested structures|utils\.cpp:3613",
        "If and Loop operators are nested too deeply",
        "flatten the nested If and Loop operators",
    ),
    Advice(
        "dla",
        r"Applying DLA optimizations without DLA|DLA core|not supported on DLA",
        "there is no DLA here, or it cannot run that layer",
        "add gpu_fallback, or leave dla_core out",
    ),
    Advice(
        "capability",
        r"[Cc]ompute capability cannot be|getCurrentCC",
        "no GPU to build for was given",
        "name the GPU with --target",
    ),
    Advice(
        "no-implementation",
        r"implementation for node",
        "no kernel fits that node in this type and memory",
        "raise the workspace limit (--workspace), or replace that node",
        of_types=True,
    ),
    Advice(
        "graph-compiler",
        r"Myelin",
        "TensorRT's graph compiler fails on this combination of nodes, which is a bug in TensorRT",
        "split the node named above, or try another version of TensorRT",
        whole=True,
        of_types=True,
    ),
)

_UNKNOWN = Advice(
    "unknown", "", "", "replace the node named above, or try another target or back-end", whole=True, of_types=True
)


def advice_for(text: str) -> Advice:
    """The first entry that matches a message; one without a cause if none does."""
    return next((advice for advice in GUIDE if re.search(advice.pattern, text)), _UNKNOWN)


def advice_behind(remedy: str) -> Advice | None:
    """The entry that a remedy was made of by ``errors.remedy_for``."""
    return next((advice for advice in (*GUIDE, _UNKNOWN) if remedy == advice.whole_remedy), None)
