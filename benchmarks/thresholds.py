"""What a figure of parity means for the task: networks degraded by known amounts, figure beside the task metric's loss.

    python benchmarks/thresholds.py [--cases FOLDER] [--out results/thresholds.json] [NAME ...]

Every network is degraded in its weights, by noise of a share of each tensor's root mean square and by rounding to fewer
bits a channel, and built to INT8 and FP8. On the samples of its metric each degraded network gives: the signal-to-noise
ratio and the cosine about the mean over samples, as ``verify`` computes them, the share of equal decisions (classes of
rows, steps or pixels; the nearest other row of an embedding; sides of 0.5), and the loss of the metric. The networks:
every ``case.py`` of the folder (MODEL, ``calibration()``, ``evaluate(run, limit)``), and a detector, a segmenter and
recognizers of digit strings and of spoken words trained here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from benchmarks_common import machine_line
from torch import Tensor, nn
from tuning_models import conv, detector, train

import trtpipe
from trtpipe.accuracy.comparison import OutputComparison
from trtpipe.accuracy.metrics import make_meter
from trtpipe.config.formats import Precision
from trtpipe.config.profile import Tolerance
from trtpipe.config.recipe import EvaluationSettings
from trtpipe.config.settings import Settings

Feed = dict[str, np.ndarray]
Run = Callable[[Feed], Feed]

DIGITS = Path(__file__).parents[1] / "examples" / "digits" / "digits.npz"
NOISES = (0.003, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
BITS = (8, 6, 5, 4, 3)


@dataclass(frozen=True)
class Network:
    """A model with its task.

    Attributes:
        calibration: as ``trtpipe build`` takes it.
        evaluate: the metric that counts, of a run of the model.
        shapes: min, opt and max by input.
        lower_is_better: whether the metric is an error.
    """

    name: str
    model: Path
    calibration: str
    evaluate: Callable[[Run], float]
    shapes: dict[str, Any]
    lower_is_better: bool = False


def cases(folder: Path | None, limit: int | None = None) -> Iterator[Network]:
    for path in sorted(folder.glob("*/case.py")) if folder else ():
        spec = importlib.util.spec_from_file_location(path.parent.name, path)
        assert spec is not None
        assert spec.loader is not None
        case = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(case)
        yield Network(
            path.parent.name, Path(case.MODEL), f"{path}:calibration",
            lambda run, case=case: float(next(iter(case.evaluate(run, limit).values()))), case.PROFILES,
        )  # fmt: skip


def labeled(name: str, folder: Path, metric: str, output: str = "") -> Network:
    """A folder of ``tuning_models``: ``model.onnx``, ``calib.npz``, ``eval.npz``."""
    with np.load(folder / "eval.npz") as file:
        images, labels = file["image"], file["labels"]
    settings = EvaluationSettings(metric=metric, output=output)

    def evaluate(run: Run) -> float:
        meter = make_meter(settings)()
        for start in range(0, len(images), 25):
            outputs = run({"image": images[start : start + 25]})
            meter.update(outputs, outputs, labels[start : start + 25])
        return meter.scores().value

    low, most = ([n, *images.shape[1:]] for n in (1, 64))
    shapes = {"image": {"min": low, "opt": low, "max": most}}
    return Network(name, folder / "model.onnx", str(folder / "calib.npz"), evaluate, shapes, metric == "wer")


class Recognizer(nn.Module):
    """Strings of eight digits: [n,1,8,80] -> CTC scores [n,20,11]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(1, 24), conv(24, 32), nn.MaxPool2d(2), conv(32, 48), conv(48, 48))
        self.rows = nn.Sequential(nn.Conv2d(48, 64, (4, 1)), nn.ReLU(), nn.MaxPool2d((1, 2)))
        self.head = nn.Conv1d(64, 11, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.rows(self.layers(image)).flatten(1, 2)).transpose(1, 2)


class Speech(nn.Module):
    """Words in the energies of 20 bands: [n,1,20,80] -> CTC scores [n,40,9]."""

    def __init__(self) -> None:
        super().__init__()
        parts = [
            part
            for inputs, stride in ((20, 1), (48, 2), (48, 1))
            for part in (nn.Conv1d(inputs, 48, 5, stride, 2), nn.BatchNorm1d(48), nn.ReLU())
        ]
        self.bands = nn.Sequential(*parts)
        self.steps = nn.GRU(48, 48, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, 9)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.steps(self.bands(image.flatten(1, 2)).transpose(1, 2))[0])


class Segmenter(nn.Module):
    """The class of every pixel, 0 for none: [n,1,32,32] -> [n,3,32,32]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(1, 16), conv(16, 32), conv(32, 32), conv(32, 32))
        self.head = nn.Conv2d(32, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layers(image))


def export(module: nn.Module, images: np.ndarray, output: str, folder: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=512)
    torch.onnx.export(
        module, (torch.from_numpy(images[:2]),), folder / "model.onnx", dynamo=True, input_names=["image"],
        output_names=[output], dynamic_shapes=({0: batch},), verbose=False,
    )  # fmt: skip


def recognizer(folder: Path) -> Network:
    folder.mkdir()
    with np.load(DIGITS, allow_pickle=False) as file:
        digits, classes, split = file["images"].astype(np.float32) / 16, file["labels"], file["split"]

    def strings(part: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        images, words = np.zeros((count, 1, 8, 80), np.float32), np.zeros((count, 8), np.int64)
        known = np.flatnonzero(split == part)
        for image, word in zip(images, words, strict=True):
            chosen = generator.choice(known, 8)
            word[:] = classes[chosen] + 1
            for place, index in enumerate(chosen):
                left = 10 * place + int(generator.integers(0, 3))
                image[0, :, left : left + 8] += digits[index]
        return images + generator.normal(0, 0.1, images.shape).astype(np.float32), words

    images, words = strings(0, 3000, 0)
    module = train(Recognizer(), torch.from_numpy(images), ctc_loss, (torch.from_numpy(words),), 12)
    held, truth = strings(1, 500, 1)
    export(module, held, "scores", folder)
    np.savez(folder / "calib.npz", image=images[:200])
    np.savez(folder / "eval.npz", image=held, labels=truth)
    return labeled("digit strings", folder, "wer")


def ctc_loss(scores: Tensor, truth: Tensor) -> Tensor:
    steps = torch.full((len(scores),), scores.shape[1])
    lengths = torch.full((len(truth),), truth.shape[1])
    return nn.functional.ctc_loss(scores.log_softmax(2).transpose(0, 1), truth, steps, lengths)


def speech(folder: Path) -> Network:
    """Utterances of five words out of eight. A word glides through three pairs of formants; speakers differ in pitch
    and in tempo, and there is noise."""
    folder.mkdir()
    words = np.random.default_rng(7).uniform(2, 18, (8, 3, 2))

    def utterances(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        energies, spoken = np.zeros((count, 1, 20, 80), np.float32), generator.integers(0, 8, (count, 5))
        bands = np.arange(20)[:, None]
        for image, said in zip(energies, spoken, strict=True):
            pitch, start = generator.normal(0, 0.5), int(generator.integers(0, 6))
            for word in said:
                length = int(generator.integers(9, 14))
                at = np.linspace(0, 2, length)
                for formant in range(2):
                    centers = np.interp(at, range(3), words[word, :, formant]) + pitch
                    image[0, :, start : start + length] += np.exp(-np.square(bands - centers) / 3)
                start += length + int(generator.integers(0, 3))
        return energies + generator.normal(0, 0.25, energies.shape).astype(np.float32), spoken + 1

    heard, said = utterances(3000, 0)
    module = train(Speech(), torch.from_numpy(heard), ctc_loss, (torch.from_numpy(said),), 15)
    held, truth = utterances(400, 1)
    export(module, held, "scores", folder)
    np.savez(folder / "calib.npz", image=heard[:200])
    np.savez(folder / "eval.npz", image=held, labels=truth)
    return labeled("spoken words", folder, "wer")


def segmenter(folder: Path) -> Network:
    folder.mkdir()

    def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        images = generator.normal(0, 0.4, (count, 1, 32, 32)).astype(np.float32)
        truth = np.zeros((count, 32, 32), np.int64)
        rows, columns = np.mgrid[:32, :32]
        for image, mask in zip(images, truth, strict=True):
            for kind in (1, 2):
                x, y, size = generator.integers(5, 27), generator.integers(5, 27), generator.integers(3, 7)
                square, disk = np.maximum(abs(rows - y), abs(columns - x)), np.hypot(rows - y, columns - x)
                inside = (square if kind == 1 else disk) < size
                image[0][inside] += 1 if kind == 1 else 0.6
                mask[inside] = kind
        return images, truth

    images, truth = drawn(1500, 0)
    masks = torch.from_numpy(truth)
    module = train(Segmenter(), torch.from_numpy(images), nn.CrossEntropyLoss(), (masks,), 6)
    held, real = drawn(200, 1)
    export(module, held, "classes", folder)
    np.savez(folder / "calib.npz", image=images[:200])

    def evaluate(run: Run) -> float:
        """Mean intersection over union."""
        found = np.concatenate([run({"image": held[i : i + 25]})["classes"].argmax(1) for i in range(0, 200, 25)])
        each = [((found == c) & (real == c)).sum() / ((found == c) | (real == c)).sum() for c in range(3)]
        return float(np.mean(each))

    low, most = [1, 1, 32, 32], [64, 1, 32, 32]
    shapes = {"image": {"min": low, "opt": low, "max": most}}
    return Network("shapes, pixel by pixel", folder / "model.onnx", str(folder / "calib.npz"), evaluate, shapes)


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Weights of a graph and of the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from tensors(attribute.g)


def degraded(model: Path, change: Callable[[np.ndarray], np.ndarray], out: Path) -> Path:
    loaded = onnx.load(model)
    for tensor in tensors(loaded.graph):
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim > 1 and array.size > 64:
            tensor.CopyFrom(onnx.numpy_helper.from_array(change(array).astype(np.float32), tensor.name))
    onnx.save(loaded, out)
    return out


def noisy(share: float) -> Callable[[np.ndarray], np.ndarray]:
    generator = np.random.default_rng(0)
    return lambda array: array + generator.normal(0, share * np.sqrt(np.square(array).mean()), array.shape)


def rounded(bits: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        step = np.abs(array).max(tuple(range(1, array.ndim)), keepdims=True) / (2 ** (bits - 1) - 1)
        return np.where(step > 0, np.rint(array / np.where(step > 0, step, 1)) * step, array)

    return change


def runner(model: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(None, feed), strict=True))


def decisions(output: np.ndarray) -> np.ndarray:
    """Classes of rows ([n, classes]), steps ([n, steps, classes]) or pixels ([n, classes, h, w]); of embeddings, which
    have 100 values a row and more, the nearest other row; else sides of 0.5.
    """
    if output.ndim == 2 and output.shape[1] >= 100:
        rows = output / np.linalg.norm(output, axis=1, keepdims=True)
        nearest: np.ndarray = (rows @ rows.T - 2 * np.eye(len(rows), dtype=rows.dtype)).argmax(1)
        return nearest
    axis = {2: 1, 3: 2, 4: 1}.get(output.ndim, 0)
    if output.ndim > 1 and 1 < output.shape[axis] < 100:
        found: np.ndarray = output.argmax(axis)
        return found
    return output > 0.5


def row(network: Network, kind: str, run: Run, reference: list[tuple[Feed, Feed]], before: float) -> dict[str, Any]:
    comparison = OutputComparison(Tolerance(), Precision.int8)
    equal = total = 0
    answers = []
    for feed, wanted in reference:
        found = run(feed)
        answers.append(found)
        comparison.add(found, wanted)
        name = next(iter(wanted))
        same = decisions(found[name]) == decisions(wanted[name])
        equal, total = equal + int(same.sum()), total + same.size
    replayed = iter(zip(reference, answers, strict=True))

    def again(feed: Feed) -> Feed:
        (seen, _), answer = next(replayed, ((None, None), None))
        if seen is not None and all(np.array_equal(seen[name], feed[name]) for name in feed):
            return answer
        return run(feed)  # state that the network itself made

    value = network.evaluate(again)
    worst = min(comparison.results(), key=lambda each: each.snr_db)
    return {
        "kind": kind,
        "snr_db": round(worst.snr_db, 1),
        "cosine": round(worst.cosine or 0, 4),
        "equal_decisions": round(equal / total, 4),
        "metric": round(value, 4),
        "loss": round((value - before) * (1 if network.lower_is_better else -1), 4),
    }


def built(network: Network, precision: str, work: Path) -> Path:
    out = work / precision
    profile = {"precision": precision, "backend": "null", "targets": ["sm89"], "shapes": network.shapes}
    found = trtpipe.build(
        network.model, out, profile=trtpipe.DeploymentProfile.model_validate(profile),
        calib_data=network.calibration, settings=Settings(cache_dir=work / "cache"),
    ).out  # fmt: skip
    assert found is not None
    return found / "lowered.onnx"


def measured(network: Network, work: Path) -> dict[str, Any]:
    reference: list[tuple[Feed, Feed]] = []
    plain = runner(network.model)

    def recorded(feed: Feed) -> Feed:
        reference.append(({name: value.copy() for name, value in feed.items()}, plain(feed)))
        return reference[-1][1]

    before = network.evaluate(recorded)
    rows = []
    for share in NOISES:
        run = runner(degraded(network.model, noisy(share), work / "noisy.onnx"))
        rows.append(row(network, f"weights {share:.1%} noise", run, reference, before))
        print(network.name, rows[-1], file=sys.stderr, flush=True)
    for bits in BITS:
        run = runner(degraded(network.model, rounded(bits), work / "rounded.onnx"))
        rows.append(row(network, f"weights {bits} bits", run, reference, before))
        print(network.name, rows[-1], file=sys.stderr, flush=True)
    for precision in ("int8", "fp8"):
        rows.append(row(network, precision, runner(built(network, precision, work)), reference, before))
        print(network.name, rows[-1], file=sys.stderr, flush=True)
    return {"network": network.name, "metric": round(before, 4), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*")
    parser.add_argument("--cases", type=Path, help="folder of more networks")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--limit", type=int, help="samples of a case that are evaluated (default: all)")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="trtpipe-thresholds-") as scratch:
        trained = {
            "detector": lambda folder: labeled("detector", detector(folder), "map", "boxes,scores"),
            "recognizer": recognizer,
            "segmenter": segmenter,
            "speech": speech,
        }
        networks = {case.name: (lambda _, case=case: case) for case in cases(options.cases, options.limit)} | trained
        for name in options.name or networks:
            work = Path(scratch, name)
            work.mkdir()
            found.append(measured(networks[name](work / "made"), work))
    text = json.dumps({"machine": machine_line(), "networks": found}, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
