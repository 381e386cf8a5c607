"""The numeric formats that operators compute in, and the precisions a user can ask for: one table each.

All other modules ask a row for what they need and compare no names. A new format is a row of ``FORMATS``, what the
rules of lowering say of it, and its emulation on the CPU; a new precision is a row of ``Precision``.
Sources: IEEE 754 (binary16); Micikevicius et al. 2022, arXiv:2209.05433 (E4M3); the OCP Microscaling Formats
specification 1.0 (E2M1); the ONNX operator specification; NVIDIA TensorRT, "Working with Quantized Types".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from math import floor, log2
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from trtpipe.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


@dataclass(frozen=True)
class Format:
    """What the values of a tensor are: how each is coded, how they are scaled, and who computes in it.

    Attributes:
        name: the word for it in records, messages and profiles.
        kind: how a value is coded.
        bits: of one value.
        exponent, mantissa: bits of a floating-point value, the sign and the implicit digit not counted; 0 for integers.
        largest: the largest magnitude in use. Integers are used symmetrically: -128 is left out.
        storage: the element type in numpy's and ml_dtypes' words.
        onnx: the element type in ONNX's words.
        engine: TensorRT's words for it in engine reports and in its API, the one that our reports use first.
        scale: storage type of the scales of a quantized format; ``None``: values are stored as they are.
        granularity: which values of a weight share one scale; activations have one scale a tensor, or one a block.
        block: how many values along the reduced axis share one scale, where the granularity is ``block``.
        opset: the least ONNX opset whose operators take it.
        capability: the least compute capability, (major, minor), on which TensorRT computes in it.
        emulation: how a CPU shows what it does to a model: ``native``, it computes in it; ``storage``, values are
            rounded to it by pairs of Cast nodes; ``qdq``, QuantizeLinear and DequantizeLinear run as they stand;
            ``operators``, its rounding is spelled out in operators of wider types.
        cpu_kernels: whether onnxruntime's CPU kernels take a graph in it as it stands.
        cpu_level: the highest graph optimization level of onnxruntime that can be trusted with it; 99: all.
    """

    name: str
    kind: Literal["float", "integer"]
    bits: int
    exponent: int
    mantissa: int
    largest: float
    storage: str
    onnx: str
    engine: tuple[str, ...]
    scale: str | None
    granularity: Literal["tensor", "channel", "block"]
    opset: int
    capability: tuple[int, int]
    emulation: Literal["native", "storage", "qdq", "operators"]
    block: int | None = None
    cpu_kernels: bool = True
    cpu_level: int = 99

    def __str__(self) -> str:
        return self.name

    @property
    def quantized(self) -> bool:
        """Whether values are stored in units of a scale, between QuantizeLinear and DequantizeLinear."""
        return self.scale is not None

    @property
    def label(self) -> str:
        """The word for it in the record of a lowering: the element type, where that says all; else the name."""
        return self.name if self.quantized else self.storage

    @cached_property
    def dtype(self) -> np.dtype:
        """The numpy type of stored values."""
        import ml_dtypes
        import numpy as np

        return np.dtype(getattr(ml_dtypes, self.storage, self.storage))

    @property
    def normal(self) -> float:
        """The smallest floating-point value with all digits; what lies below loses them, down to 0."""
        return float(2.0 ** (2 - 2 ** (self.exponent - 1)))

    @property
    def rounding(self) -> float:
        """The largest relative error of rounding to it, for normal floating-point values."""
        return 2.0 ** -(self.mantissa + 1)

    @property
    def overflow(self) -> float:
        """The smallest magnitude that rounds to infinity: half a step above the largest value."""
        return self.largest + 2.0 ** (floor(log2(self.largest)) - self.mantissa - 1)


FP32 = Format(
    "fp32", "float", 32, 8, 23, (2 - 2.0**-23) * 2.0**127, storage="float32", onnx="FLOAT", engine=("Float", "FP32"),
    scale=None, granularity="tensor", opset=1, capability=(7, 5), emulation="native",
)  # fmt: skip
#: onnxruntime 1.32 crashes at its layout level on transformer encoders.
FP16 = Format(
    "fp16", "float", 16, 5, 10, 65504.0, storage="float16", onnx="FLOAT16", engine=("Half", "FP16"),
    scale=None, granularity="tensor", opset=1, capability=(7, 5), emulation="storage", cpu_level=2,
)  # fmt: skip
#: Conv, pooling and others take it from opset 22 on.
BF16 = Format(
    "bf16", "float", 16, 8, 7, (2 - 2.0**-7) * 2.0**127, storage="bfloat16", onnx="BFLOAT16",
    engine=("BFloat16", "BF16"), scale=None, granularity="tensor", opset=22, capability=(8, 0), emulation="storage",
    cpu_kernels=False, cpu_level=2,
)  # fmt: skip
#: E4M3 without infinities. onnxruntime 1.32 fuses its Q/DQ pairs as if they were int8 at its extended level: a
#: ResNet-20 of 93 % top-1 scores 11 %.
FP8 = Format(
    "fp8", "float", 8, 4, 3, 448.0, storage="float8_e4m3fn", onnx="FLOAT8E4M3FN", engine=("FP8",),
    scale="float32", granularity="tensor", opset=19, capability=(8, 9), emulation="qdq", cpu_level=1,
)  # fmt: skip
INT8 = Format(
    "int8", "integer", 8, 0, 0, 127.0, storage="int8", onnx="INT8", engine=("Int8", "INT8"),
    scale="float32", granularity="channel", opset=13, capability=(7, 5), emulation="qdq",
)  # fmt: skip
INT4 = Format(
    "int4", "integer", 4, 0, 0, 7.0, storage="int4", onnx="INT4", engine=("Int4", "INT4"),
    scale="float32", granularity="block", block=128, opset=21, capability=(8, 0), emulation="qdq",
)  # fmt: skip
#: E2M1 in blocks, whose scales are E4M3 in units of one float32 scale a tensor.
NVFP4 = Format(
    "nvfp4", "float", 4, 2, 1, 6.0, storage="float4_e2m1fn", onnx="FLOAT4E2M1", engine=("FP4", "FP4E2M1"),
    scale="float8_e4m3fn", granularity="block", block=16, opset=23, capability=(10, 0), emulation="operators",
    cpu_kernels=False,
)  # fmt: skip

#: The widest first. No precision lowers to int4 and nvfp4 yet, but a model that is read may hold them.
FORMATS: tuple[Format, ...] = (FP32, FP16, BF16, FP8, INT8, INT4, NVFP4)

#: Those of 16 bits: lowering to them takes casts, and no scales.
HALF_FORMATS: tuple[Format, ...] = tuple(form for form in FORMATS if form.bits == 16)

_BY_WORD: Mapping[str, Format] = MappingProxyType(
    {word: form for form in FORMATS for word in (form.name, form.storage)}
)


def find_format(word: str) -> Format | None:
    """The format with this name or element type (``fp8``, ``float16``); ``None`` for any other word.

    >>> find_format("bfloat16").mantissa
    7
    """
    return _BY_WORD.get(word)


def is_quantized(word: str) -> bool:
    """Whether ``word``, from the record of a lowering, names a quantized format."""
    form = find_format(word)
    return form is not None and form.quantized


@dataclass(frozen=True)
class DefaultTolerance:
    """When an output in a precision counts as equal to the reference, where a profile does not say.

    The fields are those of ``trtpipe.config.profile.OutputTolerance``, and mean the same.
    """

    atol: float
    rtol: float
    stat: Literal["elemwise", "max", "mean", "median"]
    min_cosine: float
    min_snr_db: float
    min_agreement: float


#: Room for fused and re-ordered float32 sums; a tie of two classes may be broken otherwise.
_EXACT = DefaultTolerance(atol=1e-4, rtol=1e-3, stat="max", min_cosine=0.9999, min_snr_db=40.0, min_agreement=0.999)
#: The SNR decides (docs/accuracy.md has the losses behind it): rtol is the mean of normal errors with that SNR. This
#: min_agreement and the next are what the best class of trained classifiers keeps where outputs are only just as close
#: as min_cosine asks (0.985, 0.957 and 0.918 in the worst of 3).
_BINARY16 = DefaultTolerance(atol=1e-3, rtol=2.5e-2, stat="mean", min_cosine=0.999, min_snr_db=30.0, min_agreement=0.98)
#: 3 bits less.
_BRAIN = DefaultTolerance(atol=1e-2, rtol=8e-2, stat="mean", min_cosine=0.995, min_snr_db=20.0, min_agreement=0.95)
#: Judged by direction and mean error, because single elements legitimately move by whole steps; what quantization costs
#: is for the task metric to say.
_QUANTIZED = DefaultTolerance(atol=2e-2, rtol=2e-1, stat="mean", min_cosine=0.97, min_snr_db=17.0, min_agreement=0.9)


class Precision(str, Enum):
    """What a user asks a build for; each member is the text that names it, and a row of settings.

    Attributes:
        quantized: the format of the weights and activations of quantized operators; ``None``: none are quantized.
        half: the 16-bit format of what is not quantized; ``None``: it stays float32.
        calibrated: whether activations need ranges from calibration data.
        compared: whether engines are built to compare which operators are worth quantizing, where a back-end does that
            quickly; products of attention, which are quantized only where that shows to pay, are candidates then.
        tolerance: when outputs count as equal, where the profile does not say.
        help: a sentence for the command line.

    Example:
        >>> Precision("best").quantized.name, Precision("best").half.name
        ('int8', 'fp16')
    """

    quantized: Format | None
    half: Format | None
    calibrated: bool
    compared: bool
    tolerance: DefaultTolerance
    help: str

    best = (
        *("best", INT8, FP16, True, True, _QUANTIZED),
        "Compute in int8 where profitable, else in fp16; needs calibration data.",
    )
    int8 = "int8", INT8, None, True, False, _QUANTIZED, "Compute in int8; needs calibration data."
    fp8 = "fp8", FP8, None, True, False, _QUANTIZED, "Compute in fp8; needs calibration data."
    fp16 = "fp16", None, FP16, False, False, _BINARY16, "Compute in fp16."
    bf16 = "bf16", None, BF16, False, False, _BRAIN, "Compute in bf16."
    fp32 = "fp32", None, None, False, False, _EXACT, "Compute in fp32, the default."

    def __new__(
        cls,
        word: str,
        quantized: Format | None,
        half: Format | None,
        calibrated: bool,
        compared: bool,
        tolerance: DefaultTolerance,
        text: str,
    ) -> Precision:
        """A member: the word itself, with its row."""
        row = str.__new__(cls, word)
        row._value_ = word
        row.quantized, row.half, row.calibrated, row.compared = quantized, half, calibrated, compared
        row.tolerance, row.help = tolerance, text
        return row

    @classmethod
    def _missing_(cls, value: object) -> Precision | None:
        """In capitals, as people write formats."""
        return cls.__members__.get(value.lower()) if isinstance(value, str) else None

    def __str__(self) -> str:
        return str.__str__(self)

    @property
    def formats(self) -> tuple[Format, ...]:
        """What the graph is lowered to, the quantized format first; empty where it stays float32."""
        return tuple(form for form in (self.quantized, self.half) if form is not None)

    def joined(self, other: Precision) -> Precision | None:
        """The one that computes in the formats of both; ``None`` if there is none.

        Example:
            >>> str(Precision("int8").joined(Precision("fp16")))
            'best'
        """
        wanted = {*self.formats, *other.formats}
        both = self.formats and other.formats
        return next((each for each in Precision if both and set(each.formats) == wanted), None)

    @property
    def mixed(self) -> bool:
        """Whether a profile chooses between the quantized and the 16-bit format operator by operator."""
        return self.quantized is not None and self.half is not None

    @property
    def quantized_format(self) -> Format:
        """``quantized``, where there has to be one.

        Raises:
            InternalError: nothing is quantized in this precision.
        """
        if self.quantized is None:
            raise InternalError(f"{self} has no quantized format")
        return self.quantized


def coarser(precision: Precision, half: Format | None, *, steps: bool = False) -> Precision:
    """The precision with the widest tolerance: ``precision``, that of a 16-bit format, or that of 8 bits.

    Args:
        half: the 16-bit format that a reference computes in; ``None`` for none.
        steps: whether the reference rounds activations to 8 bits. A value next to the middle of two steps may then
            become the other one. Of the roundings of float32 few move a value so, which costs what 16 bits cost; those
            of 16 bits move one in some tens, which costs about what the steps themselves do.
    """
    rows = [precision, *(row for row in Precision if row.quantized is None and row.half is half)]
    if steps:
        rows.append(Precision.int8 if precision.formats else Precision.fp16)
    return max(rows, key=lambda row: row.tolerance.rtol)


#: What everything else is compared with, and the precision where none is named.
FULL_PRECISION = Precision.fp32
#: The quantized precision of calibration and of sensitivity analysis where none is named.
DEFAULT_QUANTIZED = Precision.int8
