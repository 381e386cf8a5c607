"""One network on everything that can run it here: TensorRT engines in FP32, FP16 and INT8, PyTorch, onnxruntime.

    python benchmarks/latency.py [--batch 1] [--rounds 20] > results/latency.json

All take turns, round by round, on the same values; who begins changes. What is timed is a whole inference, from arrays
in host memory to arrays in host memory, so that GPU and CPU runners are timed alike; for engines the GPU's own times
are told besides. Ratios are against the first contender, with a 95 % confidence interval. What cannot run is listed
with the reason. Without a GPU everything runs on the CPU, and the result says so: it is no GPU latency.

The network is a ResNet-50 with seeded random weights, calibrated on random data: its speed is real, its answers are
not.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from benchmarks_common import machine_line
from torch import nn

import trtpipe
from trtpipe.backends.base import load_backend
from trtpipe.backends.gpu import gpus
from trtpipe.config.profile import LatencySettings
from trtpipe.errors import TrtpipeError
from trtpipe.latency.measuring import measure
from trtpipe.latency.statistics import interval, times
from trtpipe.progress import NullProgress

PRECISIONS = ("fp32", "fp16", "int8")


class Bottleneck(nn.Module):
    """A residual block of ResNet-50 (He et al. 2015)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.short: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.short(x))


def resnet50() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(blocks):
            layers.append(Bottleneck(inputs, width, stride if index == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000)).eval()


@dataclass
class Contender:
    """Something that answers a feed."""

    name: str
    device: str
    infer: Callable[[dict[str, np.ndarray]], object]


class Skipped(Exception):
    """Why a contender does not take part."""


def torch_contender(name: str, *, compiled: bool) -> Contender:
    """PyTorch, on the GPU where there is one; copies in and out are part of it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = resnet50().to(device)
    run = torch.compile(module) if compiled else module

    def infer(feed: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            answer: np.ndarray = run(torch.from_numpy(feed["input"]).to(device)).cpu().numpy()
        return answer

    return Contender(name, f"torch {torch.__version__} on {device}", infer)


def onnx_contender(name: str, model: Path, provider: str) -> Contender:
    if provider not in onnxruntime.get_available_providers():
        raise Skipped(f"this onnxruntime has no {provider}")
    session = onnxruntime.InferenceSession(str(model), providers=[provider])
    if session.get_providers()[0] != provider:
        raise Skipped(f"{provider} does not start on this machine")
    source = session.get_inputs()[0].name
    where = f"onnxruntime {onnxruntime.__version__}, {provider}"
    return Contender(name, where, lambda feed: session.run(None, {source: feed["input"]}))


def engine_contender(precision: str, folder: Path, feed: np.ndarray, stack: ExitStack) -> tuple[Contender, object]:
    """An engine built here for this GPU, and its GPU times."""
    if not gpus():
        raise Skipped("this machine has no NVIDIA GPU")
    job = trtpipe.make_job(
        (resnet50(), (torch.from_numpy(feed),)),
        profile=trtpipe.DeploymentProfile(precision=precision, targets=(gpus()[0].target,)),
        allow_random=True,
    )
    out = folder / precision
    made = trtpipe.build(job, out).out  # beside it, where random weights fail the accuracy gate
    assert made is not None
    runner = stack.enter_context(load_backend(job.backend).open(made / f"{job.targets[0]}.plan", job.settings))
    named = {runner.inputs[0].name: feed}
    gpu = measure(runner, named, "random", LatencySettings(), f"engine {precision}", NullProgress(), on_gpu=True)
    contender = Contender(f"engine {precision}", runner.device, lambda _: runner.infer(named))
    return contender, gpu.to_dict()


def contenders(feed: np.ndarray, folder: Path, stack: ExitStack, skipped: dict[str, str], gpu: dict[str, object]) -> \
        Iterator[Contender]:  # fmt: skip
    """All that can run here, ready and warm; the others go into ``skipped``."""
    model = folder / "model.onnx"
    source = (resnet50(), (torch.from_numpy(feed),))
    trtpipe.export(source, model)

    def engine(precision: str) -> Contender:
        made, gpu[precision] = engine_contender(precision, folder, feed, stack)
        return made

    makers: dict[str, Callable[[], Contender]] = {
        "torch eager": lambda: torch_contender("torch eager", compiled=False),
        "torch.compile": lambda: torch_contender("torch.compile", compiled=True),
        "onnxruntime CPU": lambda: onnx_contender("onnxruntime CPU", model, "CPUExecutionProvider"),
        "onnxruntime CUDA": lambda: onnx_contender("onnxruntime CUDA", model, "CUDAExecutionProvider"),
        **{f"engine {precision}": lambda precision=precision: engine(precision) for precision in PRECISIONS},
    }
    for name, make in makers.items():
        if name in skipped:
            continue
        try:
            made = make()
            made.infer({"input": feed})
        except (Skipped, TrtpipeError) as why:
            skipped[name] = str(why)
        except RuntimeError as why:  # what torch.compile raises where there is no compiler
            skipped[name] = str(why).splitlines()[0]
        else:
            yield made


def race(found: list[Contender], feed: dict[str, np.ndarray], rounds: int) -> np.ndarray:
    """float64[rounds, contenders]: seconds of one inference, the median of at least three and 0.1 s."""
    seconds = np.zeros((rounds, len(found)))
    for number in range(rounds):
        for offset in range(len(found)):
            column = (number + offset) % len(found)
            laps: list[float] = []
            while len(laps) < 3 or sum(laps) < 0.1:
                begin = time.perf_counter()
                found[column].infer(feed)
                laps.append(time.perf_counter() - begin)
            seconds[number, column] = np.median(laps)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="leave a contender out")
    arguments = parser.parse_args()
    feed = np.random.default_rng(0).random((arguments.batch, 3, 224, 224), dtype=np.float32)
    skipped: dict[str, str] = {}
    gpu: dict[str, object] = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        skipped.update(dict.fromkeys(arguments.without, "left out by --without"))
        found = list(contenders(feed, Path(folder), stack, skipped, gpu))
        load = os.getloadavg()[0]
        seconds = race(found, {"input": feed}, arguments.rounds)
    rows = []
    for column, each in enumerate(found):
        ratios = seconds[:, column] / seconds[:, 0]
        low, high = interval(ratios)
        rows.append(
            {
                "contender": each.name,
                "runs on": each.device,
                "milliseconds": {name: round(value, 3) for name, value in times(seconds[:, column]).to_dict().items()},
                f"ratio to {found[0].name}": round(float(np.median(ratios)), 3),
                "95 % interval": [round(low, 3), round(high, 3)],
            }
        )
    label = "GPU" if gpus() else "CPU only: these are no GPU latencies"
    print(
        json.dumps(
            {
                "machine": machine_line() if not gpus() else ", ".join(gpu.name for gpu in gpus()),
                "label": label,
                "network": f"ResNet-50, random weights, batch {arguments.batch}",
                "rounds": arguments.rounds,
                "load when it began": round(load, 1),
                "end to end": rows,
                "on the GPU alone": gpu,
                "not run": skipped,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
