"""Run as a script: users who share one cache folder; prints one JSON document.

    python tests/store/shared.py SECONDS

Two users with keys of their own read, build and prune the same entries in one folder, four readers and one who prunes
each. What they build differs, so that it shows if one of them is ever given what the other wrote. Where root runs it,
two processes of another uid try all of that meanwhile, and must be refused.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from driver import KEY, MEMORY, OTHER, fork, status_of

from trtpipe.artifact import Draft
from trtpipe.config.authenticity import UserKey
from trtpipe.errors import HostError
from trtpipe.store import ArtifactStore, Key

USERS = ("ann", "bob")
NOBODY = 65534


class Counts:
    """What one process did, in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"counts-{os.getpid()}"
        self.found: dict[str, int] = {"reads": 0, "builds": 0, "removed": 0, "refused": 0, "wrong": 0}

    def save(self) -> None:
        self.path.write_text(json.dumps(self.found))


def content(user: str) -> bytes:
    return user.encode() * 5000


def read(folder: Path, user: str, key: Key, end: float) -> None:
    """Read an entry again and again; build it where there is none that this user's key vouches for."""
    counts, seal = Counts(folder), UserKey(user, None)
    while time.monotonic() < end:
        with ArtifactStore(folder / "cache", seal=seal) as store:
            if (artifact := store.lookup(key)) is None:
                with store.lock(key), store.workdir() as work:
                    (work / "lowered.onnx").write_bytes(content(user))
                    artifact = store.put(key, Draft("lowered", work, ("lowered.onnx",)), seconds=1.0)
                    counts.found["builds"] += 1
            else:
                counts.found["reads"] += 1
                counts.found["wrong"] += artifact.path.read_bytes() != content(user)
        time.sleep(0.005)
    counts.save()


def prune(folder: Path, user: str, end: float) -> None:
    counts = Counts(folder)
    while time.monotonic() < end:
        with ArtifactStore(folder / "cache", seal=UserKey(user, None)) as store:
            counts.found["removed"] += store.prune(max_bytes=0).removed
        time.sleep(0.05)
    counts.save()


def intrude(folder: Path, end: float) -> None:
    """Another uid: whatever it tries is refused."""
    counts = Counts(folder)
    counts.path.touch()
    os.chown(counts.path, NOBODY, NOBODY)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    while time.monotonic() < end:
        for act in (lambda store: store.lookup(KEY), lambda store: store.prune(max_bytes=0)):
            try:
                with ArtifactStore(folder / "cache", seal=UserKey("eve", None)) as store:
                    act(store)
                counts.found["wrong"] += 1
            except HostError:
                counts.found["refused"] += 1
        time.sleep(0.02)
    counts.save()


def share(seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Path(name)
        folder.chmod(0o711)
        with ArtifactStore(folder / "cache", seal=UserKey(USERS[0], None)) as store, store.workdir():
            pass  # the folder is there before anybody else comes
        end = time.monotonic() + seconds
        jobs = [partial(read, folder, user, key, end) for user in USERS for key in (KEY, OTHER) * 2]
        jobs += [partial(prune, folder, user, end) for user in USERS]
        jobs += [partial(intrude, folder, end)] * 2 * (os.geteuid() == 0)
        statuses = [status_of(process) for process in [fork(job) for job in jobs]]
        found = [json.loads(path.read_text()) for path in folder.glob("counts-*")]
        total = {name: sum(each[name] for each in found) for name in found[0]}
        corrupt = []
        for user in USERS:
            with ArtifactStore(folder / "cache", seal=UserKey(user, None)) as store:
                corrupt += list(store.verify().corrupt)
                left = [path.name for path in (folder / "cache" / "tmp").glob("*")]
        return {"statuses": statuses, **total, "corrupt": corrupt, "left": left}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(share(float(sys.argv[1])), indent=1) + "\n")
