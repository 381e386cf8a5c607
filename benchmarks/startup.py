"""How fast trtpipe starts: CPU time and modules of ``import trtpipe`` and ``trtpipe --help``, beside plain Python.

    python benchmarks/startup.py [--runs 9]

Prints the median of several fresh processes; all processes run in one session, taking turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys

HEAVY = ("torch", "onnx", "onnx_ir", "onnxruntime", "onnxsim", "polygraphy", "numpy", "tensorrt", "tensorrt_rtx")
COMMANDS = {
    "python -c pass": "pass",
    "import trtpipe": "import trtpipe",
    "trtpipe --help": "import sys; sys.argv = ['trtpipe', '--help']; from trtpipe.cli import main; main()",
}


def cpu_seconds(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def heavy_modules(code: str) -> list[str]:
    probe = f"import atexit, sys, os\natexit.register(lambda: os.write(2, ' '.join(sys.modules).encode()))\n{code}"
    answer = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    loaded = set(answer.stderr.split())
    return [name for name in HEAVY if name in loaded]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, code in COMMANDS.items():
            times[name].append(cpu_seconds(code))
    result = {
        name: {
            "cpu_seconds_median": round(statistics.median(values), 3),
            "heavy_modules": heavy_modules(COMMANDS[name]),
        }
        for name, values in times.items()
    }
    print(
        json.dumps(
            {"runs": runs, "cores": os.cpu_count(), "python": sys.version.split()[0], "result": result}, indent=1
        )
    )


if __name__ == "__main__":
    main()
