"""What calibration.py measures: plain inference, the pass over the data, whole runs, and what follows a pass."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

#: model -> (input, shape of one sample)
INPUTS = {"resnet50": ("image", (1, 3, 224, 224)), "minilm": ("ids", (1, 64))}
TENSORS, _VALUES = 120, 1 << 20


def feeds(name: str, samples: int) -> Iterator[dict[str, np.ndarray]]:
    """Seeded samples, one at a time."""
    key, shape = INPUTS[name]
    for index in range(samples):
        random = np.random.default_rng(index)
        if key == "ids":
            yield {key: random.integers(0, 30522, shape)}
        else:
            yield {key: random.standard_normal(shape, dtype=np.float32)}


def plain(name: str, samples: int, path: Path) -> Callable[[], None]:
    import onnxruntime

    options = onnxruntime.SessionOptions()  # as ours: threads that wait must not count as work
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def work() -> None:
        for feed in feeds(name, samples):
            session.run(None, feed)

    return work


def ours(name: str, samples: int, path: Path) -> Callable[[], None]:
    """What ``trtpipe calibrate`` does with the data: every statistic, and the data summary with its digest."""
    import trtpipe
    from trtpipe.backends.base import load_backend
    from trtpipe.calibration.collect import collect
    from trtpipe.calibration.statistics_arrays import STATISTICS_REDUCER
    from trtpipe.config.recipe import DataSettings
    from trtpipe.config.settings import Settings
    from trtpipe.data.dataset import open_dataset
    from trtpipe.passes.clean_up import load_clean
    from trtpipe.preflight.onnx_io import read_contract, save_model
    from trtpipe.stages.observe import observed_tensors, showing

    os.environ["TRTPIPE_BENCHMARK"] = f"{name} {samples}"
    observed = path.with_name(f"{name}-observed.onnx")
    model = load_clean(path)
    tensors = observed_tensors(model)
    save_model(showing(model, tensors), observed)
    del model  # a build opens the graph in a child
    dataset = open_dataset(DataSettings(source=f"{__file__}:stream"), read_contract(path))

    stack = ExitStack()
    runner = stack.enter_context(load_backend("onnxruntime").open(observed, Settings.in_child()))

    def work() -> None:
        with stack:
            collect(runner.reduced(STATISTICS_REDUCER, tensors), dataset, tensors, trtpipe.NullProgress())

    return work


SCHEMES: dict[str, Callable[[str, int, Path], Callable[[], None]]] = {"plain": plain, "trtpipe": ours}


def quantize(model: Path, data: Path, work: Path) -> None:
    """What a user of the Python API writes, as peers.py does for the others: calibrate, and lower."""
    import trtpipe
    from trtpipe.config.recipe import CalibrationRecipe, DataSettings
    from trtpipe.config.settings import Settings

    recipe = CalibrationRecipe(method="entropy", corrections="none", data=DataSettings(source=str(data)))
    out, settings = work / "out", Settings(cache_dir=work / "cache")
    trtpipe.calibrate(model, out, precision="int8", recipe=recipe, settings=settings)
    trtpipe.lower(model, out, ranges=out / "ranges.json", precision="int8", recipe=recipe, settings=settings)


def paired(name: str, path: Path, rounds: int = 64) -> float:
    """Median CPU time of one sample observed, with its statistics and data summary, over that of plain inference."""
    import onnxruntime

    from trtpipe.backends.base import load_backend
    from trtpipe.calibration.data_summary import DataSummaryBuilder
    from trtpipe.calibration.statistics_arrays import STATISTICS_REDUCER
    from trtpipe.config.recipe import DataSettings
    from trtpipe.config.settings import Settings
    from trtpipe.data.dataset import open_dataset
    from trtpipe.passes.clean_up import load_clean
    from trtpipe.preflight.onnx_io import read_contract, save_model
    from trtpipe.stages.observe import observed_tensors, showing

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    observed, model = path.with_name(f"{name}-observed.onnx"), load_clean(path)
    tensors = observed_tensors(model)
    save_model(showing(model, tensors), observed)
    os.environ["TRTPIPE_BENCHMARK"] = f"{name} {rounds}"
    summary = DataSummaryBuilder(open_dataset(DataSettings(source=f"{__file__}:stream"), read_contract(path)))
    times: list[tuple[float, float]] = []
    with load_backend("onnxruntime").open(observed, Settings.in_child()) as runner:
        reduction = runner.reduced(STATISTICS_REDUCER, tensors)
        for feed in feeds(name, rounds):
            begin = time.process_time()
            session.run(None, feed)
            middle = time.process_time()
            reduction.run(feed)
            summary.add(feed)
            times.append((middle - begin, time.process_time() - middle))
    alone, ours_too = np.median(np.array(times), axis=0)
    return float(ours_too / alone)


def stream() -> Iterator[dict[str, np.ndarray]]:
    """The samples as a data source of trtpipe's."""
    name, samples = os.environ["TRTPIPE_BENCHMARK"].split()
    return feeds(name, int(samples))


def every_range(statistics: object) -> None:
    """The ranges by every method."""
    from trtpipe.calibration.methods import COMPARED_METHODS
    from trtpipe.calibration.ranges import range_of
    from trtpipe.calibration.statistics import Statistics
    from trtpipe.config.formats import DEFAULT_QUANTIZED

    assert isinstance(statistics, Statistics)
    for choice in COMPARED_METHODS:
        for tensor, found in statistics.tensors.items():
            range_of(tensor, found, choice, DEFAULT_QUANTIZED.quantized_format)


def derivation() -> float:
    """Seconds of CPU time for the ranges of 120 tensors of a million values each, of several distributions."""
    from trtpipe.calibration.statistics import Statistics

    statistics = Statistics.empty(f"tensor {index:03}" for index in range(TENSORS))
    for index, tensor in enumerate(statistics.tensors.values()):
        random = np.random.default_rng(index)
        values = (random.standard_normal, random.standard_cauchy, random.standard_exponential)[index % 3](_VALUES)
        tensor.update(np.maximum(values, 0) if index % 2 else values)
    begin = time.process_time()
    every_range(statistics)
    return time.process_time() - begin
