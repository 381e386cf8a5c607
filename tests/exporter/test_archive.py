from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest

from trtpipe.errors import InputError
from trtpipe.exporter.archive import check_archive

if TYPE_CHECKING:
    from pathlib import Path


def test_an_archive_much_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for number in range(5):
            archive.writestr(f"archive/data/{number}", bytes(64 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InputError, match=r"bomb\.pt2: 5 files that unpack to 336 MB from"):
        check_archive(path)


def test_what_is_usual_or_no_archive_passes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "usual.pt2", "w") as archive:
        archive.writestr("archive/data/0", bytes(1 << 20))
    (tmp_path / "none.pt2").write_bytes(b"PK\x03\x04 not really")
    for name in ("usual.pt2", "none.pt2", "missing.pt2"):
        check_archive(tmp_path / name)
