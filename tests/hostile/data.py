"""Hostile calibration data: bombs, lies about sizes, links and devices, things that want to be unpickled."""

from __future__ import annotations

import importlib.util
import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = np.zeros((8, 4), np.float32)


class Evil:
    """Unpickling this makes a file."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("/tmp/trtpipe-escaped"),)  # type: ignore[return-value]


def png(width: int, height: int, *, rows: bytes | None = None, chunks: bytes = b"") -> bytes:
    """An image of so many pixels, all black, however few bytes that takes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    if rows is None:
        packer = zlib.compressobj(9)
        rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(min(height, 2000))) + packer.flush()
    data = chunk(b"IHDR", head) + chunks + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def saved(kind: str, mode: str = "RGB", size: tuple[int, int] = (8, 8), **options: object) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind, **options)
    return stream.getvalue()


def images(folder: Path) -> dict[str, Path]:
    """Folders, each with one bad image among good ones."""
    from PIL import Image

    good, frames = saved("PNG"), [Image.new("RGB", (8, 8), (90 * n, 0, 0)) for n in range(3)]
    text = b"tEXt" + b"k\0" + bytes(100)
    bomb = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    contents = {
        "60,000 x 60,000 pixels": png(60_000, 60_000),
        "2^31 x 2^31 pixels": png((1 << 31) - 1, (1 << 31) - 1, rows=b""),
        "8,193 x 8,193 pixels": png(8193, 8193),
        "no pixels": png(0, 0, rows=b""),
        "cut short": good[: len(good) // 2],
        "a header alone": good[:33],
        "a damaged checksum": good[:-20] + b"\0\0\0\0" + good[-16:],
        "not compressed data": png(8, 8, rows=b"not zlib"),
        "a text chunk that lies": png(8, 8, chunks=bomb[:-1]),
        "animated": saved("GIF", save_all=True, append_images=frames),
        "empty": b"",
        "a text": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "a PDF": b"%PDF-1.4\n" + bytes(200),
        "an EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(/tmp/trtpipe-escaped) (w) file\n",
        "a TIFF": saved("TIFF"),
        "an ICO": saved("ICO", size=(16, 16)),
        "a FITS": b"SIMPLE  =                    T".ljust(2880),
        "a picture and a zip": saved("BMP")[:30] + b"PK\x03\x04" * 20,
        "a JPEG without an end": saved("JPEG")[:-100],
        "a JPEG of 65,500 x 65,500": saved("JPEG").replace(b"\x00\x08\x00\x08", b"\xff\xdc\xff\xdc", 1),
    }
    made = {}
    for number, (name, content) in enumerate(contents.items()):
        here = folder / str(number)
        here.mkdir(parents=True)
        for index in range(8):
            (here / f"{index}.png").write_bytes(good)
        (here / "5-bad.png").write_bytes(content)
        made[name] = here
    (folder / "link").mkdir()
    (folder / "link" / "a.png").symlink_to("/etc/passwd")
    (folder / "out").mkdir()
    (folder / "out" / "a.png").symlink_to("../0/0.png")
    (folder / "zero").mkdir()
    (folder / "zero" / "a.png").symlink_to("/dev/zero")
    (folder / "loop").mkdir()
    (folder / "loop" / "a").symlink_to(folder / "loop")
    links = {"a link to /etc/passwd": "link", "a link out": "out", "/dev/zero": "zero", "a circle": "loop"}
    return made | {name: folder / where for name, where in links.items()}


def header(shape: str, descr: str = "'<f4'", *, version: bytes = b"\x01\x00") -> bytes:
    """An ``.npy`` header as nobody would write it."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode() + b"\n"
    size = struct.pack("<H", len(text)) if version == b"\x01\x00" else struct.pack("<I", len(text))
    return b"\x93NUMPY" + version + size + text


def arrays(folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True)
    objects = io.BytesIO()
    np.save(objects, np.array([Evil()], object), allow_pickle=True)
    lone = {
        "objects": objects.getvalue(),
        "a pickle": objects.getvalue()[128:],
        "a shape beyond memory": header("(1099511627776, 4)") + bytes(64),
        "a shape that overflows": header("(4611686018427387904, 4)") + bytes(64),
        "a negative shape": header("(-1, 4)") + bytes(64),
        "a shape that is code": header("__import__('os').system('true')") + bytes(64),
        "a header of 100,000 brackets": header("(" * 100_000, version=b"\x02\x00"),
        "a type of another size": header("(8, 4)", "'|V1000000000'") + bytes(64),
        "a type with objects inside": header("(8,)", "[('a', '|O')]") + bytes(64),
        "cut short": header("(8, 4)") + bytes(100),
        "another version": header("(8, 4)", version=b"\x09\x00") + bytes(128),
        "nothing": b"",
    }
    made = {}
    for number, (name, content) in enumerate(lone.items()):
        made[f".npy: {name}"] = folder / f"{number}.npy"
        made[f".npy: {name}"].write_bytes(content)
        made[f".npz: {name}"] = folder / f"{number}.npz"
        with zipfile.ZipFile(folder / f"{number}.npz", "w") as archive:
            archive.writestr("x.npy", content)
    good = io.BytesIO()
    np.save(good, ROWS)
    for name, entries in {
        "a path in a name": ["../../../tmp/trtpipe-escaped.npy"],
        "an absolute name": ["/tmp/trtpipe-escaped.npy"],
        "a name twice": ["x.npy", "x.npy"],
        "no arrays": [],
    }.items():
        path = made[f".npz: {name}"] = folder / f"{name.replace(' ', '-')}.npz"
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.simplefilter("ignore")
            for entry in entries:
                archive.writestr(entry, good.getvalue())
    bomb = made[".npz: a bomb of 64 MB in 64 kB"] = folder / "bomb.npz"
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as out,
    ):
        out.write(header("(1, 16777216)"))
        for _ in range(64):
            out.write(bytes(1 << 20))
    return made


def hdf5s(folder: Path) -> dict[str, Path]:
    """Made where h5py is installed."""
    if importlib.util.find_spec("h5py") is None:
        return {}
    import h5py

    folder.mkdir(parents=True)
    (folder / "secret.h5").write_bytes(b"")
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = ROWS
    made = {name: folder / f"{number}.h5" for number, name in enumerate(
        ("an external link", "a soft link", "values in /etc/passwd", "a virtual dataset", "a group", "objects",
         "a shape beyond memory", "cut short", "a header alone", "nothing")
    )}  # fmt: skip
    with h5py.File(made["an external link"], "w") as file:
        file["x"] = h5py.ExternalLink("secret.h5", "/x")
    with h5py.File(made["a soft link"], "w") as file:
        file["x"] = h5py.SoftLink("/nowhere")
    with h5py.File(made["values in /etc/passwd"], "w") as file:
        file.create_dataset("x", (8, 4), "f4", external=[("/etc/passwd", 0, 128)])
    with h5py.File(made["a virtual dataset"], "w") as file:
        layout = h5py.VirtualLayout((8, 4), "f4")
        layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (8, 4))
        file.create_virtual_dataset("x", layout)
    with h5py.File(made["a group"], "w") as file:
        file.create_group("x")
    with h5py.File(made["objects"], "w") as file:
        file.create_dataset("x", (8,), h5py.string_dtype())
    with h5py.File(made["a shape beyond memory"], "w") as file:
        file.create_dataset("x", (4, 1 << 40), "f4", chunks=(1, 1 << 20))
    whole = (folder / "secret.h5").read_bytes()
    made["cut short"].write_bytes(whole[: len(whole) // 2])
    made["a header alone"].write_bytes(b"\x89HDF\r\n\x1a\n")
    made["nothing"].write_bytes(b"")
    return made


def tars(folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True)
    image = saved("PNG")

    def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int | None = None) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        info.size = len(image) if size is None else size
        if kind != tarfile.REGTYPE:
            info.size = 0
        return info

    members = {
        "..": [member("../../tmp/trtpipe-escaped.png")],
        "an absolute name": [member("/tmp/trtpipe-escaped.png")],
        "a link": [member("0.png", tarfile.SYMTYPE, "/etc/passwd")],
        "a hard link": [member("0.png", tarfile.LNKTYPE, "/etc/passwd")],
        "a device": [member("0.png", tarfile.CHRTYPE)],
        "a FIFO": [member("0.png", tarfile.FIFOTYPE)],
        "a name without an end": [member("x/" * 60 + ".")],
        "a member of 2^60 bytes": [member("0.png", size=1 << 60)],
        "a member of two gigabytes": [member("0.png", size=1 << 31)],
        "a bad image": [member("0.png", size=10)],
        "no members": [],
    }
    made = {}
    for number, (name, infos) in enumerate(members.items()):
        path = made[name] = folder / f"{number}.tar"
        with tarfile.open(path, "w") as archive:
            for info in infos:
                archive.addfile(info, io.BytesIO(image * 20) if info.size < 1 << 20 else None)
    for name, content in {"compressed": b"\x1f\x8b" + bytes(600), "noise": b"noise" * 300, "nothing": b""}.items():
        made[name] = folder / f"{name}.tar"
        made[name].write_bytes(content)
    return made
