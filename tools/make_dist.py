"""Build the wheel and the source archive; equal sources give equal bytes: ``python tools/make_dist.py [FOLDER]``.

setuptools writes the times, owners and modes of the files it finds. Here every entry gets one time, one owner and one
of two modes, so folder, time, user, umask and hash seed do not show (see https://reproducible-builds.org/docs/).
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

#: 1980-01-01, before which zip archives have no times.
_TIME, _ZIP_TIME = 315_532_800, (1980, 1, 1, 0, 0, 0)


def main(arguments: list[str]) -> None:
    """Build into FOLDER (default: ``dist``) and print the names."""
    from setuptools import build_meta

    root = Path(__file__).resolve().parent.parent
    out = Path(arguments[0] if arguments else root / "dist").resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(root)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            wheel = Path(folder, build_meta.build_wheel(folder))
            source = Path(folder, build_meta.build_sdist(folder))
        for path, made in ((wheel, _plain_zip(wheel)), (source, _plain_tar(source))):
            (out / path.name).write_bytes(made)
            sys.stdout.write(f"{out / path.name}\n")


def _plain_zip(path: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(stream, "w") as new:
        for name in sorted(old.namelist()):
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.compress_type, info.external_attr, info.create_system = zipfile.ZIP_DEFLATED, 0o100644 << 16, 3
            new.writestr(info, old.read(name))
    return stream.getvalue()


def _plain_tar(path: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            info = tarfile.TarInfo(member.name)
            info.type, info.size, info.mtime = member.type, member.size, _TIME
            info.mode = 0o755 if member.isdir() else 0o644
            new.addfile(info, old.extractfile(member) if member.isfile() else None)
    return gzip.compress(stream.getvalue(), mtime=0)


if __name__ == "__main__":
    main(sys.argv[1:])
