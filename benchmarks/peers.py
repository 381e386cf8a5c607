"""Other quantizers, in a virtual environment of their own: nvidia-modelopt, NNCF, onnxruntime's static quantizer.

    python benchmarks/peers.py FOLDER                                make the environment (about 2 GB), print its python
    PEER_PYTHON benchmarks/peers.py TOOL METHOD MODEL FEEDS OUT CASE quantize MODEL to OUT, as ``quantize`` does

All get the same ONNX model and the same feeds, and write an ONNX model with Q/DQ pairs. NNCF's accuracy control
measures the metric of the case as well, on its first samples. NNCF makes activations that are never negative uint8, one
bit more than TensorRT takes. The environment holds the CPU build of torch where the package index has one; nothing of
trtpipe is imported in it.
"""

from __future__ import annotations

import os
import resource
import runpy
import subprocess
import sys
import time
import venv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: tool -> methods it knows
METHODS = {
    "modelopt": ("entropy", "max", "autotune"),
    "nncf": ("symmetric", "control"),
    "onnxruntime": ("entropy", "minmax", "percentile"),
}
#: samples that NNCF's accuracy control measures the metric on, many times, and the loss that it may leave
_CONTROLLED, _MOST_LOST = 300, 0.01
#: modelopt wants torch, of which its index may have a build without CUDA under this version only; cases read images.
_PACKAGES = ("nvidia-modelopt[onnx]", "nncf", "pillow", "torch==2.13.0")
_DIGITS = 6


@dataclass(frozen=True)
class Cost:
    """What a process took as a whole, from start to end: seconds, and MiB. ``error`` is its last line if it failed."""

    wall: float
    cpu: float
    peak: float
    error: str = ""


def peer_python(folder: Path) -> Path:
    """The interpreter of an environment with both tools in ``folder``; made if it is not there.

    Raises:
        CalledProcessError: a package cannot be installed.
    """
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *_PACKAGES], check=True)
        (folder / "ready").touch()
    return python


def write_feeds(path: Path, feeds: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Feeds of any shapes as an ``.npz``: ``<number>/<input>``, numbers of six digits."""
    np.savez(path, **{f"{n:0{_DIGITS}}/{name}": value for n, feed in enumerate(feeds) for name, value in feed.items()})


def quantize(
    python: Path, tool: str, method: str, model: Path, feeds: Path, out: Path, case: Path | None = None,
    memory: int | None = None,
) -> Cost:  # fmt: skip
    """Quantize ``model`` to ``out`` in a process of its own; weights per channel, activations symmetric, all int8.

    Args:
        python: from ``peer_python``.
        feeds: from ``write_feeds``.
        case: the ``case.py`` of the model, see ``accuracy.py``; for accuracy control.
        memory: bytes of address space it may take.
    """
    return timed([str(python), __file__, tool, method, str(model), str(feeds), str(out), str(case or "")], memory)


def timed(command: list[str], memory: int | None = None) -> Cost:
    """Run a process to its end, and say what it took."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
    if memory is not None:
        resource.prlimit(process.pid, resource.RLIMIT_AS, (memory, memory))
    assert process.stderr is not None
    lines = process.stderr.read().strip().splitlines()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - begin
    error = "" if process.returncode == 0 else (lines or [f"exit {process.returncode}"])[-1][:200]
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, error)


class Reader:
    """Feeds as both tools want them: one at a time, read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self._archive = np.load(path, allow_pickle=False)
        self._feeds: Iterator[dict[str, np.ndarray]] = iter(())
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)

    def get_first(self) -> dict[str, np.ndarray]:
        return next(self.walk())

    def rewind(self) -> None:
        self._feeds = self.walk()

    def walk(self) -> Iterator[dict[str, np.ndarray]]:
        names: dict[str, list[str]] = {}
        for key in self._archive.files:
            names.setdefault(key[:_DIGITS], []).append(key)
        for keys in names.values():
            yield {key[_DIGITS + 1 :]: self._archive[key] for key in keys}


def _modelopt(method: str, model: Path, feeds: Path, out: Path, case: Path) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(model),
        quantize_mode="int8",
        calibration_data_reader=Reader(feeds),
        calibration_method="entropy" if method == "autotune" else method,
        autotune=method == "autotune",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out),
    )


def _nncf(method: str, model: Path, feeds: Path, out: Path, case: Path) -> None:
    import nncf
    import onnx

    loaded = onnx.load(model)
    every = list(Reader(feeds).walk())
    data, preset = nncf.Dataset(every), nncf.QuantizationPreset.PERFORMANCE  # symmetric, as all others
    if method == "symmetric":
        quantized = nncf.quantize(loaded, data, preset=preset, subset_size=len(every))
    else:
        quantized = nncf.quantize_with_accuracy_control(
            loaded, data, data, lambda proto, _: (_metric(proto, case), None),
            max_drop=_MOST_LOST, preset=preset, subset_size=len(every),
        )  # fmt: skip
    onnx.save(quantized, out)


def _metric(proto: Any, case: Path) -> float:
    """The metric of a case on its first samples; ``proto`` is an ``onnx.ModelProto``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # Q/DQ as written
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    inputs = {each.name for each in session.get_inputs()}

    def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {name: feed[name] for name in inputs}), strict=True))

    found = runpy.run_path(str(case))["evaluate"](run, _CONTROLLED)
    return float(next(iter(found.values())))


def _onnxruntime(method: str, model: Path, feeds: Path, out: Path, case: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    named = {"entropy": "Entropy", "minmax": "MinMax", "percentile": "Percentile"}[method]
    quantize_static(
        str(model),
        str(out),
        Reader(feeds),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibrate_method=getattr(CalibrationMethod, named),
        extra_options={"ActivationSymmetric": True},
    )


def main() -> int:
    if len(sys.argv) == 2:
        print(peer_python(Path(sys.argv[1])))
        return 0
    tool, method, model, feeds, out, case = sys.argv[1:]
    run = {"modelopt": _modelopt, "nncf": _nncf, "onnxruntime": _onnxruntime}[tool]
    run(method, Path(model), Path(feeds), Path(out), Path(case))
    return 0


if __name__ == "__main__":
    sys.exit(main())
