"""A 3.2 GB ONNX model with external data, lowered to FP16 and built for sm89: wall time and peak memory.

    python benchmarks/large.py [--keep FOLDER]

Needs 20 GB of disk and 14 GB of memory. The model's weights are seeded random numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks_common import machine_line
from overhead import watched

SHAPES = ["--min-shapes", "x:1x2048", "--opt-shapes", "x:1x2048", "--max-shapes", "x:8x2048"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--keep", type=Path, help="where to write the model and the results (default: a temporary folder)"
    )
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as folder:
        work = keep or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        model = work / "dense3g.onnx"
        maker = [sys.executable, str(Path(__file__).parent / "models.py"), "dense3g", str(model)]
        subprocess.run(maker, check=True, stdout=subprocess.DEVNULL)
        environment = {**os.environ, "TRTPIPE_CACHE_DIR": str(work / "cache")}
        build = [sys.executable, "-m", "trtpipe", "build", str(model), "--fp16", "--target", "sm89", "--duration", "1s"]
        cost = watched([*build, *SHAPES, "-o", str(work / "out")], environment)
        sizes = {path.name: path.stat().st_size for path in sorted((work / "out").iterdir())}
    result = {
        "machine": machine_line(),
        "model": "96 MatMuls, 3.2 GB float32 as external data",
        "seconds": round(cost.wall, 1),
        "peak_memory_mb": round(cost.memory / 1e6),
        "file_bytes": sizes,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
