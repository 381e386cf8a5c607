"""What it costs that a data function runs in a child process: 512 images, in the child and in this process by turns.

    python benchmarks/user_code.py [--images 512] [--size 224] [--rounds 5]

The function decodes and normalizes JPEGs that were written before, as data functions do. Each round reads all samples
once in each way, through the same checks; the child is warm, as it is from the first iteration on. Prints the seconds
of every round, and the ratio of the two best.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks_common import machine_line
from PIL import Image

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.config.recipe import DataSettings
from trtpipe.data.function import FunctionDataset
from trtpipe.data.user_process import UserProcess
from trtpipe.data.usercode import load_function

FUNCTION = """
from pathlib import Path
import numpy as np
from PIL import Image

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])

def images():
    for path in sorted(Path({folder!r}).glob("*.jpg")):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), np.float32) / 255
        yield {{"x": ((pixels - MEAN) / STD).transpose(2, 0, 1)[None]}}
"""


def seconds(dataset: FunctionDataset, images: int) -> float:
    """Of one iteration."""
    begin = time.perf_counter()
    if sum(1 for _ in dataset) != images:
        raise SystemExit("samples are missing")
    return time.perf_counter() - begin


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
        start = time.perf_counter() - begin
        here = FunctionDataset(data, contract, load_function(data.source))
        seconds(child, options.images), seconds(here, options.images)
        rounds = [(seconds(child, options.images), seconds(here, options.images)) for _ in range(options.rounds)]
    sys.stdout.write(f"{machine_line()}\nstart of server and child: {start:.2f} s\n")
    for in_child, in_process in rounds:
        sys.stdout.write(f"in a child {in_child:.2f} s, in this process {in_process:.2f} s\n")
    best_child, best_here = (min(times) for times in zip(*rounds, strict=True))
    sys.stdout.write(f"best: {best_child:.2f} s and {best_here:.2f} s, ratio {best_child / best_here:.2f}\n")


if __name__ == "__main__":
    main()
