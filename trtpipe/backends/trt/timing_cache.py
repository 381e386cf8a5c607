"""Timing caches, kept in the cache folder, so that later builds need not time the same kernels again.

A timing cache belongs to one TensorRT version, GPU model and driver. The file name is the digest of these, and the file
begins with the proof that this user's trtpipe wrote it. One that is missing, damaged or not ours costs time, nothing
else.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.config.settings import user_key
from trtpipe.digest import sha256_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.config.authenticity import Seal

_FOLDER = "timings"
_PURPOSE, _PROOF_LENGTH = "timings", 64


@dataclass(frozen=True)
class TimingStore:
    """The timing cache of one TensorRT version and GPU model.

    Attributes:
        path: the file; it may not exist.
        seal: proves who wrote it.
    """

    path: Path
    seal: Seal

    @classmethod
    def of(cls, cache_dir: Path, identity: Mapping[str, str], seal: Seal | None = None) -> TimingStore:
        """The timing cache for ``identity``: everything that timings depend on.

        Args:
            seal: by default with the user's key.
        """
        place = cache_dir / _FOLDER / f"{sha256_json(dict(identity))}.cache"
        return cls(place, seal or user_key())

    def fetch(self, into: Path) -> None:
        """Copy the stored timings to ``into``, if there are any, complete and ours."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return
        if self.seal.verify(_PURPOSE, self._named(data[_PROOF_LENGTH:]), data[:_PROOF_LENGTH].decode("latin-1")):
            into.write_bytes(data[_PROOF_LENGTH:])

    def keep(self, made: Path) -> None:
        """Store the timings that a build wrote to ``made``. Failing to write loses the timings, never the engine."""
        if not made.is_file():
            return
        data = made.read_bytes()
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.write_bytes(self.seal.seal(_PURPOSE, self._named(data)).encode("ascii") + data)
            part.replace(self.path)

    def _named(self, data: bytes) -> bytes:
        """What is sealed: those of another machine, put in this one's place, are none of this one's."""
        return self.path.name.encode() + b"\0" + data


def use_timings(config: Any, path: str) -> None:
    """Load the timings at ``path`` (in the worker process); an empty timing cache if TensorRT rejects them."""
    if not path:
        return
    stored = Path(path).read_bytes() if Path(path).is_file() else b""
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def keep_timings(config: Any, path: str) -> None:
    """Write the builder's timings to ``path`` (in the worker process)."""
    cache = config.get_timing_cache() if path else None
    if cache is not None:
        Path(path).write_bytes(memoryview(cache.serialize()))
