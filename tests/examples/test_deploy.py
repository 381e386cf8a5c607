"""The commands of the deployment example: from a package to predictions on the CPU."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import trtpipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "deploy"
#: The blocks of commands in the README, words by words.
BLOCKS = [
    [shlex.split(line) for line in block.splitlines()]
    for block in re.findall(r"```sh\n(.*?)```", (EXAMPLE / "README.md").read_text(encoding="utf-8"), re.DOTALL)
]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make demo`` builds, with a placeholder in place of the engines."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("deploy")
    profile = trtpipe.DeploymentProfile.load(ROOT / "profiles" / "digits.toml")
    latency = profile.latency.model_copy(update={"warmup": 0.001, "duration": 0.001})
    result = trtpipe.build(
        f"{ROOT / 'examples' / 'digits' / 'model.py'}:digits_cnn", folder / "build" / "digits",
        profile=profile.model_copy(update={"backend": "null", "latency": latency}), precision="int8",
        recipe=ROOT / "calib" / "digits.toml", settings=trtpipe.Settings(cache_dir=folder / "cache"),
    )  # fmt: skip
    assert result.verdict.passed
    return folder


@pytest.fixture(scope="module")
def ran(build: Path) -> list[str]:
    """The output of each command of the first block, run where the README says."""
    for name in ("examples", "LICENSE"):
        (build / name).symlink_to(ROOT / name)
    return [run(words, build) for words in BLOCKS[0]]


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(started(words), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def started(words: list[str]) -> list[str]:
    return [sys.executable, *({"trtpipe": ["-m", "trtpipe"], "python": []}[words[0]]), *words[1:]]


def test_the_commands_end_in_the_prediction_that_the_readme_prints(ran: list[str]) -> None:
    printed = re.search(r"```\n(examples/deploy/seven\.png: .*)\n```", (EXAMPLE / "README.md").read_text())
    assert printed is not None
    assert ran[-1].strip() == printed[1]
    assert ran[1].splitlines()[-1].startswith("PASSED")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda words: [*words[:3], "missing.png", *words[4:]], "missing.png: no such file"),
        (lambda words: [words[0], words[1], "missing", *words[3:]], "missing: no package"),
        (lambda words: [word.replace("cpu", "tpu") for word in words], "device: 'tpu'"),
    ],
)
def test_what_goes_wrong_is_said_in_two_lines(
    build: Path, ran: list[str], change: Callable[[list[str]], list[str]], said: str
) -> None:
    done = subprocess.run(started(change(BLOCKS[0][-1])), cwd=build, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.fixture
def served(build: Path, ran: list[str]) -> Iterator[str]:
    (words,) = BLOCKS[1]
    place = words.index("--serve") + 1
    server = subprocess.Popen(
        started([*words[:place], "0", *words[place + 1 :]]), cwd=build, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1]
    finally:
        server.terminate()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


def test_serves(served: str) -> None:
    assert BLOCKS[2][0][0] == "curl"
    body = (EXAMPLE / "seven.png").read_bytes()
    with urllib.request.urlopen(urllib.request.Request(served, data=body)) as answer:
        found = json.load(answer)
    assert found["class"] == "seven"
    assert found["probability"] > 0.9
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(served, data=b"no image"))
    assert caught.value.code == 400
    assert "image 0" in json.load(caught.value)["error"]
    caught.value.close()


def test_the_image_is_one_of_the_held_out_digits() -> None:
    from PIL import Image

    with np.load(ROOT / "examples" / "digits" / "digits.npz", allow_pickle=False) as file:
        held_out = file["images"][file["split"] == 1]
        labels = file["labels"][file["split"] == 1]
    pixels = np.asarray(Image.open(EXAMPLE / "seven.png"))
    matching = (np.abs(held_out * (255 / 16) - pixels) < 1).all(axis=(1, 2))
    assert set(labels[matching]) == {7}
