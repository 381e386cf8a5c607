"""What can run on this machine, and on which data: shared by reference, verify and measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtpipe.backends.base import load_backend
from trtpipe.config.target import find_target
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    import onnx_ir as ir

    from trtpipe.accuracy.parity import Contender
    from trtpipe.config.build_request import Shapes
    from trtpipe.config.formats import Format, Precision
    from trtpipe.config.settings import Settings
    from trtpipe.data.dataset import Dataset

#: Feeds of seeded random data where the user gave none.
_SYNTHETIC_FEEDS = 8


@dataclass(frozen=True)
class VerificationData:
    """The samples to compare outputs on.

    Attributes:
        synthetic: whether they are random.
        labeled: whether they are the evaluation data, which may have labels.
    """

    dataset: Dataset
    synthetic: bool
    labeled: bool


def verification_data(
    datasets: Mapping[str, Dataset], graph: Path | None, shapes: Sequence[Shapes]
) -> VerificationData:
    """The evaluation data, else the calibration data, else a few seeded random feeds.

    Args:
        datasets: by role.
        graph: whose inputs random feeds follow.
        shapes: the typical shapes of every optimization profile, at which they are made; one at least.

    Raises:
        InputError: there is no graph whose inputs random feeds could follow.
    """
    from trtpipe.data.synthetic import RandomDataset
    from trtpipe.preflight.onnx_io import read_contract

    if (evaluation := datasets.get("evaluation-data")) is not None:
        return VerificationData(evaluation, synthetic=False, labeled=True)
    if (calibration := datasets.get("calibration-data")) is not None:
        return VerificationData(calibration, isinstance(calibration, RandomDataset), labeled=False)
    if graph is None:
        raise InputError("there is no graph to verify", "give an ONNX model")
    random = RandomDataset(read_contract(graph), shapes[0], _SYNTHETIC_FEEDS, 0, tuple(shapes[1:]))
    return VerificationData(random, synthetic=True, labeled=False)


def runnable_targets(backend: str, targets: Iterable[str]) -> frozenset[str]:
    """Those ``targets`` whose engines can run on this machine."""
    return frozenset(name for name in targets if load_backend(backend).runs(find_target(name)) is None)


def runnable_graph(path: Path, half: Format | None, workdir: Path) -> tuple[Path, str]:
    """The graph the CPU runs for ``path``: 16-bit graphs with their storage emulated, all others as they are."""
    if half is None:
        return path, ""
    from trtpipe.preflight.onnx_io import save_model

    written = workdir / "emulated.onnx"
    save_model(emulated(path), written)
    return written, f"{half.storage} storage emulated"


def open_watched(
    path: Path, precision: Precision, workdir: Path, runtime: Settings, stack: ExitStack, before: str = ""
) -> Contender:
    """A lowered graph ready to run; where it has 16-bit storage, with that emulated and watched.

    Args:
        before: label of the artifact it was made from.
    """
    import onnx_ir as ir

    from trtpipe.accuracy.parity import Contender
    from trtpipe.reference.reference_outputs import forget
    from trtpipe.reference.storage import StorageWatch
    from trtpipe.reference.watch_storage import watch_storage

    onnx = load_backend("onnxruntime")
    if precision.half is None:
        return Contender("lowered", stack.enter_context(onnx.open(path, runtime)), precision, before=before)
    model = emulated(path)
    probes, makers = watch_storage(model)
    written = workdir / "emulated.onnx"
    ir.save(model, written, external_data=f"{written.name}.data", size_threshold_bytes=1024)  # mapped, not copied
    del model  # whoever runs it reads the file
    forget(written)
    runner = stack.enter_context(onnx.open(written, runtime))
    note = f"{precision.half.storage} storage emulated"
    return Contender("lowered", StorageWatch(runner, probes, makers), precision, note, before)


def emulated(path: Path) -> ir.Model:
    """A lowered graph whose 16-bit storage onnxruntime can show: float32 that is rounded to the type."""
    from trtpipe.passes.graph_pass import run_passes
    from trtpipe.passes.infer_types import InferTypes
    from trtpipe.preflight.onnx_io import load_model
    from trtpipe.reference.emulation import EmulateHalf

    model = load_model(path)
    run_passes(model, [InferTypes(), EmulateHalf()])
    return model
