"""What it costs that a data function runs in a child process: 512 images, in the child and in this process by turns.

    python benchmarks/user_code.py [--images 512] [--size 224] [--rounds 5]

The function decodes and normalizes JPEGs that were written before, as data functions do. Each round reads all samples
once in each way, through the same checks; the child is warm, as it is from the first iteration on. Prints the seconds
of every round on the clock, and of processor time of both processes together (which other work on the machine changes
little), and the ratios of the medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from benchmarks_common import machine_line
from PIL import Image

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.config.recipe import DataSettings
from trtpipe.data.function import FunctionDataset
from trtpipe.data.user_process import UserProcess
from trtpipe.data.usercode import load_function

FUNCTION = """
import os
from pathlib import Path
import numpy as np
from PIL import Image

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])

Path({folder!r}, "process").write_text(str(os.getpid()))

def images():
    for path in sorted(Path({folder!r}).glob("*.jpg")):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), np.float32) / 255
        yield {{"x": ((pixels - MEAN) / STD).transpose(2, 0, 1)[None]}}
"""


class Cost(NamedTuple):
    """Seconds of one iteration: on the clock, and of processor time."""

    clock: float
    processor: float


def cost(dataset: FunctionDataset, images: int, *processes: int) -> Cost:
    """Of one iteration in these processes."""
    begin, used = time.perf_counter(), sum(map(processor_time, processes))
    if sum(1 for _ in dataset) != images:
        raise SystemExit("samples are missing")
    return Cost(time.perf_counter() - begin, sum(map(processor_time, processes)) - used)


def processor_time(process: int) -> float:
    """Seconds that the threads of a process have run; those of threads that ended are left out."""
    own = time.process_time() if process == os.getpid() else 0.0
    threads = () if own else Path(f"/proc/{process}/task").iterdir()
    return own + sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    shape = (1, 3, options.size, options.size)
    contract = IOContract(inputs=(TensorSpec(name="x", dtype="float32", shape=shape),), outputs=())
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for index in range(options.images):
            pixels = rng.integers(0, 256, (options.size // 8, options.size // 8, 3), np.uint8)
            image = Image.fromarray(pixels).resize((options.size, options.size))
            image.save(Path(folder, f"{index:05}.jpg"))
        source = Path(folder, "data.py")
        source.write_text(FUNCTION.format(folder=folder), encoding="utf-8")
        data = DataSettings(source=f"{source}:images")
        begin = time.perf_counter()
        child = FunctionDataset(data, contract, UserProcess(data.source))
        start, worker = time.perf_counter() - begin, int(Path(folder, "process").read_text())
        here = FunctionDataset(data, contract, load_function(data.source))
        ways = ((child, (os.getpid(), worker)), (here, (os.getpid(),)))
        costs = [[cost(way, options.images, *processes) for way, processes in ways] for _ in range(options.rounds + 1)]
    sys.stdout.write(f"{machine_line()}\nstart of server and child: {start:.2f} s\n")
    for in_child, in_process in costs[1:]:  # the first one warms up
        sys.stdout.write(
            f"in a child {in_child.clock:.2f} s ({in_child.processor:.2f} s of processor time), "
            f"in this process {in_process.clock:.2f} s ({in_process.processor:.2f} s)\n"
        )
    for name in Cost._fields:
        medians = [statistics.median(getattr(round_[way], name) for round_ in costs[1:]) for way in (0, 1)]
        ratio = medians[0] / medians[1]
        sys.stdout.write(f"{name}: median {medians[0]:.2f} s and {medians[1]:.2f} s, ratio {ratio:.2f}\n")


if __name__ == "__main__":
    main()
