"""The build farm on one machine: ``make farm-demo``.

A real S3 server (SeaweedFS), Ray with two workers, and a matrix of four cells, in the middle of which a worker is
killed. It has to end with every cell built and nothing damaged, and a second, empty machine has to build nothing.

Needs: pip install '.[farm,store,farm-tests]' in the clone (and rtx, for real engines).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from matrix import matrix_file, ray_workers  # noqa: E402
from object_server import BUCKET, ObjectServer  # noqa: E402

from trtpipe.backends.base import missing  # noqa: E402


def run(folder: Path, backend: str, ray: bool) -> None:
    file = matrix_file(folder, 1, backend)
    with ObjectServer(folder / "seaweed") as server:
        environment = {**os.environ, **server.environment(), "TRTPIPE_STORE": f"s3://{BUCKET}/demo",
                       "TRTPIPE_STORE_LEASE": "10", "RAY_DISABLE_IMPORT_WARNING": "1"}  # fmt: skip
        command = [sys.executable, "-m", "trtpipe", "matrix", str(file), "-o", str(folder / "out"), "--jobs", "2"]
        first = [*command, "--cache-dir", str(folder / "cache"), *(["--ray", "local"] if ray else [])]
        driver = subprocess.Popen(first, env=environment, cwd=folder)
        killed = None
        while driver.poll() is None:
            if killed is None and (busy := ray_workers(driver.pid)):
                time.sleep(0.5)  # it is at work
                with suppress(ProcessLookupError):  # or done: then the next one
                    os.kill(busy[0], signal.SIGKILL)
                    killed = busy[0]
                    print(f"killed worker {killed}", flush=True)
            time.sleep(0.2)
        report = json.loads((folder / "out" / "matrix.json").read_text())
        assert driver.returncode == 0, f"exit code {driver.returncode}"
        assert not ray or (killed is not None and report["repeated"] >= 1), "no worker was killed"
        begin = time.monotonic()
        subprocess.run([*command, "--cache-dir", str(folder / "second")], env=environment, cwd=folder, check=True)
        seconds = time.monotonic() - begin
        warm = json.loads((folder / "out" / "matrix.json").read_text())
        assert warm["built"] == 0, f"the second machine built {warm['built']} stages"
        subprocess.run(
            [sys.executable, "-m", "trtpipe", "cache", "verify", "--shared"], env=environment, cwd=folder, check=True
        )
        print(
            f"{len(report['cells'])} cells in {report['seconds']:.0f} s, {report['repeated']} task(s) begun again; "
            f"a second, empty machine: nothing built, {seconds:.1f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without-ray", action="store_true", help="with processes of this machine; none is killed")
    parser.add_argument("--backend", default="null" if missing("tensorrt-rtx") else "tensorrt-rtx")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trtpipe-farm-") as folder:
        run(Path(folder), words.backend, ray=not words.without_ray)
    print("farm-demo: fine")


if __name__ == "__main__":
    main()
