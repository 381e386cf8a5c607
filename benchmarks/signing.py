"""What a signature of a package costs, and what gets past it: nothing may.

    python benchmarks/signing.py [--size 100] [--flips 1000] [--rounds 5]

A package with random content of the given size (MB) is signed and verified: time, and memory beyond that of the empty
process. ``model_signing``, where it is installed (``tests/interop_requirements.txt``), takes turns with it on the same
folder. Then one random bit after the other is flipped, in files of a folder and in an archive, and every change is to
be refused. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks_common import machine_line

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from packages import FILES, record
from tampering import accepted, check
from trust import key_pair, signed_package

from trtpipe.delivery.assembly import Assembly
from trtpipe.delivery.policy import TrustPolicy
from trtpipe.delivery.signing import SigningKey, opened, signed

if TYPE_CHECKING:
    from collections.abc import Callable

OURS = """
import sys, time
from pathlib import Path
def peak():  # in KiB; ru_maxrss would be that of the process that this one was forked from
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
begin = time.perf_counter()
import trtpipe
trtpipe.verify_package
before = peak()
trtpipe.verify_package(sys.argv[1], key=sys.argv[2])
print(time.perf_counter() - begin, peak() - before)
"""
SIGNATURE = """
import sys, time
from pathlib import Path
begin = time.perf_counter()
from trtpipe.delivery.policy import TrustPolicy
from trtpipe.delivery.reader import Package
from trtpipe.delivery.signing import verify
verify(Package.opened(Path(sys.argv[1])), TrustPolicy.of(key=Path(sys.argv[2])))
print(time.perf_counter() - begin)
"""
COMMAND = """
import subprocess, sys, time
begin = time.perf_counter()
command = [sys.executable, "-m", "trtpipe", "package", "verify", sys.argv[1], "--key", sys.argv[2]]
subprocess.run(command, check=True, capture_output=True)
print(time.perf_counter() - begin)
"""
THEIRS = """
import sys, time
begin = time.perf_counter()
from model_signing import verifying
verifying.Config().use_elliptic_key_verifier(public_key=sys.argv[2]).verify(sys.argv[1], sys.argv[1] + "/model.sig")
print(time.perf_counter() - begin)
"""


def big_package(folder: Path, size: int, key: Path) -> tuple[Path, float]:
    """A signed package of ``size`` bytes in a folder, and the seconds that sealing and signing it took."""
    parts = folder / "big"
    parts.mkdir()
    content = {**FILES, "sm89.plan": random.Random(0).randbytes(size)}
    for name, data in content.items():
        (parts / name).write_bytes(data)
    begin = time.perf_counter()
    assembly = Assembly(record(files=()), {name: parts / name for name in content}).listed()
    plan = replace(assembly.model.plans[0], sha256=assembly.model.file("sm89.plan").sha256)
    assembly = replace(assembly, model=replace(assembly.model, plans=(plan,)))
    with opened(SigningKey(key)) as signer:
        signed(assembly.sealed(parts), signer, parts)
    return parts, time.perf_counter() - begin


def measured(code: str, *words: Path) -> list[float]:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def flipped(count: int, places: list[Path], check_one: Callable[[], bool], seed: int) -> int:
    """How many of ``count`` changed bits were accepted."""
    chance, past = random.Random(seed), 0
    for index in range(count):
        path = places[index % len(places)]
        data = path.read_bytes()
        changed = bytearray(data)
        bit = chance.randrange(8 * len(data))
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        past += check_one()
        path.write_bytes(data)
    return past


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=100, help="MB")
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pair = key_pair(folder)
        package, signing = big_package(folder, given.size * 10**6, pair.path)
        rounds, signatures, commands, theirs = [], [], [], []
        for _ in range(given.rounds):
            rounds.append(measured(OURS, package, pair.public))
            signatures += measured(SIGNATURE, package, pair.public)
            commands += measured(COMMAND, package, pair.public)
            try:
                theirs += measured(THEIRS, package, pair.public)
            except subprocess.CalledProcessError:
                theirs = []
        policy = TrustPolicy.of(key=pair.public)
        small = signed_package(folder, pair.path)
        archive = signed_package(folder, pair.path, "archive", tar=True)
        check(small, policy)
        check(archive, policy)
        files = sorted(path for path in small.iterdir())
        result = {
            "machine": machine_line(),
            "megabytes": given.size,
            "digests and signature made, s": round(signing, 3),
            "signature verified in a fresh process, s": round(statistics.median(signatures), 3),
            "trtpipe.verify_package in a fresh process, s": round(statistics.median(each[0] for each in rounds), 3),
            "trtpipe package verify, s": round(statistics.median(commands), 3),
            "memory beyond the imports, MiB": round(max(each[1] for each in rounds) / 1024, 1),
            "model_signing in a fresh process, s": round(statistics.median(theirs), 3) if theirs else None,
            "bits flipped in a folder": given.flips,
            "accepted in a folder": flipped(given.flips, files, lambda: accepted(small, policy), 1),
            "bits flipped in an archive": given.flips,
            "accepted in an archive": flipped(given.flips, [archive], lambda: accepted(archive, policy), 2),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
