"""Hostile inputs of every kind, as commands to run; all are made on the spot (see models.py and data.py)."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from hostile.data import arrays, hdf5s, images, tars
from hostile.models import DANGEROUS, REFUSED, REPAIRED, hostile_bytes, hostile_places, plain
from hostile.programs import hostile_programs
from models import model, normal

#: No longer than it must take; the pipeline is the real one but for the engine.
QUICK = ("--backend", "null", "--target", "sm89", "--warmup", "1ms", "--duration", "10ms")
REAL = ("--backend", "tensorrt-rtx", "--target", "sm89", "--warmup", "1ms", "--duration", "10ms", "--opt-level", "0",
        "--time-limit", "30s")  # fmt: skip
BAD, FINE = frozenset({2, 5, 6}), frozenset({0, 2, 3, 5, 6})


@dataclass(frozen=True)
class Case:
    """One command, and the exit codes in good order: a bug of ours is 1, a death by signal negative."""

    kind: str
    name: str
    words: tuple[str, ...]
    codes: frozenset[int] = BAD


def corpus(folder: Path, *, archives: bool) -> list[Case]:
    """Make all inputs below ``folder``; the commands that use them.

    Args:
        archives: whether to make exported programs, which takes torch and a while.
    """
    good = folder / "good.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(plain(), good)
    return [
        *_models(folder / "models"),
        *_programs(folder / "programs"),
        *(_archives(folder / "archives") if archives else ()),
        *_data(folder / "data", good),
        *_tables(folder / "tables", good),
        *_records(folder / "records", good),
        *_places(folder / "places", good),
    ]


def _build(source: Path | str, *more: str) -> tuple[str, ...]:
    return ("build", str(source), *QUICK, *more)


def _models(folder: Path) -> list[Case]:
    cases = []
    for number, (name, spoil) in enumerate([*REFUSED.items(), *DANGEROUS.items()]):
        path = folder / str(number) / "model.onnx"
        path.parent.mkdir(parents=True)
        proto = plain()
        spoil(proto)
        path.write_bytes(proto.SerializeToString())
        if name in REFUSED:
            cases.append(Case("model", name, _build(path), frozenset({0}) if name in REPAIRED else BAD))
        else:
            cases.append(Case("model that runs", name, ("build", str(path), *REAL), FINE))
    for number, (name, content) in enumerate(hostile_bytes().items()):
        path = folder / f"bytes{number}.onnx"
        path.write_bytes(content)
        cases.append(Case("bytes", name, _build(path)))
    cases += [Case("place", name, _build(path)) for name, path in hostile_places(folder / "places").items()]
    os.mkfifo(folder / "pipe.onnx")
    (folder / "link.onnx").symlink_to("/dev/zero")
    for name in ("pipe.onnx", "link.onnx", "nowhere.onnx", "places"):
        cases.append(Case("place", f"a model that is {name}", _build(folder / name)))
    for command in ("simplify", "lower", "compile", "verify", "measure", "inspect"):
        path = folder / "0" / "model.onnx"
        more = {"verify": ("--reference", str(path)), "inspect": ()}.get(command, ())
        target = QUICK[:4] if command == "compile" else ()
        codes = BAD | {0} if command == "inspect" else BAD  # which only says what is in the file
        cases.append(Case("stage alone", f"{command} a function bomb", (command, str(path), *target, *more), codes))
    return cases


def _programs(folder: Path) -> list[Case]:
    folder.mkdir(parents=True)
    made = {
        "noise.pt2": b"noise" * 100,
        "empty.pt2": b"",
        "pickle.pt2": b"\x80\x04cposix\nsystem\n(S'touch /tmp/trtpipe-escaped'\ntR.",
        "zip.pt2": b"PK\x05\x06" + bytes(18),
        "weights.pt": b"\x80\x04cposix\nsystem\n(S'touch /tmp/trtpipe-escaped'\ntR.",
        "weights.pth": b"PK\x03\x04",
    }
    for name, content in made.items():
        (folder / name).write_bytes(content)
    cases = [Case("program", name, _build(folder / name)) for name in made]
    names = (
        "../../etc/passwd:x",
        "os:system",
        "x y:z",
        "a.py",
        ":",
        "-",
        "\x1b[31mred",
        "http://example.invalid/m.onnx",
    )
    return cases + [Case("program", f"source {name!r}", _build(name)) for name in names]


def _archives(folder: Path) -> list[Case]:
    """Exported programs, where torch is there to make one."""
    if importlib.util.find_spec("torch") is None:
        return []
    folder.mkdir(parents=True)
    cases = []
    good = folder / "good.pt2"
    script = "import sys; from hostile.programs import saved_program; sys.stdout.buffer.write(saved_program())"
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with good.open("wb") as file:
        subprocess.run([sys.executable, "-c", script], env={**os.environ, **path}, stdout=file, check=True)
    for number, (name, content) in enumerate(hostile_programs(good.read_bytes())):
        path = folder / f"{number}.pt2"
        path.write_bytes(content)
        cases.append(Case("archive", name, ("export", str(path), "-o", "m.onnx"), BAD | {0}))  # some damage is harmless
    return cases


def _data(folder: Path, good: Path) -> list[Case]:
    folder.mkdir(parents=True)
    photo = folder / "photo.onnx"
    shape = "float[1,3,8,8]"
    onnx.save(model(f"({shape} x) => ({shape} y) {{ y = Conv<pads=[1,1,1,1]>(x, w) }}", w=normal(3, 3, 3, 3)), photo)
    cases = []
    for kind, target, made in (
        ("image", photo, images(folder / "images")),
        ("array", good, arrays(folder / "arrays")),
        ("hdf5", good, hdf5s(folder / "hdf5")),
        ("tar", photo, tars(folder / "tars")),
    ):
        for name, path in made.items():
            cases.append(Case(kind, name, _build(target, "--int8", "--calib-data", str(path))))
    return cases


_DEEP = "[" * 5000 + "]" * 5000
#: Profiles and recipes: wrong types, numbers beyond all bounds, names that lead elsewhere.
_PROFILES = {
    "a number beyond all bounds": "[build]\nworkspace = 99999999999999999999999999999999\n",
    "infinity": "[latency]\nduration = inf\n",
    "not a number": "[accuracy]\nmax_drop = nan\n",
    "a negative number": "[build]\nopt_level = -7\n",
    "text for a number": '[build]\nopt_level = "many"\n',
    "a list for a table": "build = [1, 2]\n",
    "a table for a list": "[targets]\na = 1\n",
    "a key nobody knows": '__class__ = "os.system"\n',
    "a key twice": 'precision = "int8"\nprecision = "fp16"\n',
    "no TOML": "precision: int8\n",
    "no UTF-8": "precision = '\xff'\n",
    "brackets 5,000 deep": f"targets = {_DEEP}\n",
    "a NUL": 'precision = "int8\\u0000"\n',
    "a target with a path": 'targets = ["../../../../tmp/trtpipe-escaped"]\n',
    "an escape sequence": 'precision = "\\u001b[2J"\n',
    "a shape of 2^62": "[shapes.x]\nmin = [1, 4]\nopt = [2, 4]\nmax = [4611686018427387904, 4]\n",
    "a million targets": "targets = [" + '"sm89",' * 1_000_000 + '"sm90x"]\n',
    "50 MB of a text": 'description = "' + "a" * 50_000_000 + '"\n',
    "50 MB of a comment": "#" * 50_000_000 + "\n",
    "a key of a megabyte": "a" * 1_000_000 + " = 1\n",
    "a hundred thousand keys": "".join(f"k{number} = 1\n" for number in range(100_000)),
    "a key of 5,000 parts": ".".join("a" * 5000) + " = 1\n",
    "tables 5,000 deep": "a = " + "{a = " * 5000 + "1" + "}" * 5000 + "\n",
    "headers 5,000 deep": f"[{'.'.join('b' * 5000)}]\nc = 1\n",
    "a number of 100,000 digits": "[build]\nopt_level = " + "9" * 100_000 + "\n",
    "a date for a number": "[build]\nopt_level = 1979-05-27T07:32:00Z\n",
    "a text that turns around": 'precision = "\\u202etni8"\n',
    "an invisible key": '"\\u200bprecision" = "int8"\n',
    "a surrogate": 'precision = "\\ud800"\n',
    "a tensor with markup": '[shapes."<script>alert(1)</script>"]\nmin = [1]\nopt = [1]\nmax = [1]\n',
    "a tensor of 100,000 letters": f'[shapes."{"x" * 100_000}"]\nmin = [1]\nopt = [1]\nmax = [1]\n',
    "a pattern that takes for ever": 'keep = ["' + "*a" * 200 + 'b"]\n',
    "a plug-in that is a device": '[build]\nplugins = ["/dev/zero"]\n',
}
#: Recipes whose data are no data.
_RECIPES = {
    "a device": '[data]\nsource = "/dev/zero"\n',
    "a file of the kernel's": '[data]\nsource = "/proc/self/environ"\n',
    "a pipe": '[data]\nsource = "pipe"\n',
    "a page of the web": '[data]\nsource = "http://example.invalid/x.npz"\n',
    "a function of the system": '[data]\nsource = "os:system"\n',
    "a program of the shell": '[data]\nsource = "$(touch /tmp/trtpipe-escaped).npz"\n',
    "a NUL": '[data]\nsource = "x\\u0000.npz"\n',
    "a name of 100,000 letters": f'[data]\nsource = "{"x" * 100_000}.npz"\n',
    "as many samples as there are": '[data]\nsource = "x.npz"\nsamples = 99999999999999999999\n',
    "a batch of 2^62": '[data]\nsource = "x.npz"\nbatch = 4611686018427387904\n',
    "an image of 2^31 pixels": '[data]\nsource = "images"\n[data.image]\nsize = [2147483647, 2147483647]\n',
    "a mean of no number": '[data]\nsource = "images"\n[data.image]\nmean = [nan, inf, 0.0]\n',
    "a metric of the system": '[data]\nsource = "x.npz"\n[evaluation]\nmetric = "os:abort"\n',
    "names of classes from a device": '[data]\nsource = "x.npz"\n[evaluation]\nclasses = "/dev/zero"\n',
}


def _tables(folder: Path, good: Path) -> list[Case]:
    folder.mkdir(parents=True)
    cases = []
    for number, (name, text) in enumerate(_PROFILES.items()):
        path = folder / f"{number}.toml"
        path.write_bytes(text.encode("latin-1"))
        cases.append(Case("profile", name, _build(good, "--profile", str(path)), BAD | {0}))
        if number < 13 or "precision" not in text:
            cases.append(Case("recipe", name, _build(good, "--int8", "--calib", str(path))))
    os.mkfifo(folder / "pipe")
    (folder / "images").mkdir()
    np.savez(folder / "x.npz", x=np.zeros((8, 4), np.float32))
    for number, (name, text) in enumerate(_RECIPES.items()):
        path = folder / f"recipe{number}.toml"
        path.write_text(text)
        cases.append(Case("recipe", name, _build(good, "--int8", "--calib", str(path)), BAD | {0}))
    return cases


def _records(folder: Path, good: Path) -> list[Case]:
    """Ranges, manifests and sidecars as nobody wrote them."""
    folder.mkdir(parents=True)
    shutil.copy(good, folder / "model.onnx")
    texts = {
        "nothing": "",
        "no JSON": "{",
        "another record": '{"tensors": 1}',
        "a list": "[]",
        "brackets 100,000 deep": "[" * 100_000,
        "a number of 5,000 digits": '{"tensors": {}, "method": ' + "9" * 5000 + "}",
        "infinite ranges": json.dumps({"method": "max", "tensors": {"x": {"amax": "Infinity"}}}),
        "a key twice": '{"method": "max", "method": "mse", "tensors": {}}',
        "a manifest that names other files": json.dumps(
            {"artifacts": [{"files": ["../../etc/passwd"]}], "verdicts": []}
        ),
        "a name with an escape sequence": json.dumps({"method": "\x1b[2J", "tensors": {}}),
    }
    cases = []
    for number, (name, text) in enumerate(texts.items()):
        path = folder / f"{number}.json"
        path.write_text(text)
        words = ("lower", str(folder / "model.onnx"), "--int8", "--ranges", str(path))
        cases.append(Case("ranges", name, words))
        cases.append(Case("inspect", name, ("inspect", str(path))))
    for name, content in {"a plan cut short": b"ftrt" + bytes(20), "a plan of zeros": bytes(100)}.items():
        path = folder / f"{name.replace(' ', '-')}.plan"
        path.write_bytes(content)
        cases.append(Case("plan", f"inspect {name}", ("inspect", str(path)), BAD | {0}))
        cases.append(Case("plan", f"measure {name}", ("measure", str(path), "--target", "sm89")))
    return cases


def _places(folder: Path, good: Path) -> list[Case]:
    """Caches and output folders that are not the user's own."""
    folder.mkdir(parents=True)
    cases = []
    for name in ("open to all", "of another user", "a file", "a link to nothing", "a planted entry"):
        cache = folder / name.replace(" ", "-")
        if name == "a file":
            cache.write_text("")
        elif name == "a link to nothing":
            cache.symlink_to(folder / "nowhere")
        else:
            cache.mkdir(mode=0o700)
            (cache / "v1").mkdir()
            (cache / "v1" / "compile").symlink_to("/etc")
        if name == "open to all":
            cache.chmod(0o777)
        if name == "of another user":
            if os.geteuid():  # only root can give a folder away
                continue
            os.chown(cache, 12345, 12345)
        cases.append(Case("cache", name, ("--cache-dir", str(cache), *_build(good))))
    out = folder / "out"
    out.write_text("a file")
    cases.append(Case("output", "a file", ("build", str(good), "-o", str(out), *QUICK)))
    cases.append(Case("output", "below a file", ("build", str(good), "-o", str(out / "x"), *QUICK)))
    (folder / "gone").symlink_to(folder / "nowhere" / "x")
    cases.append(Case("output", "a link to nothing", ("build", str(good), "-o", str(folder / "gone"), *QUICK)))
    np.savez(folder / "x.npz", x=np.zeros((2, 4), np.float32))
    return cases
