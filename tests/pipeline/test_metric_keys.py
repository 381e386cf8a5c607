"""Whatever a metric reads decides whether its verdict still holds: no stale figure, and no measuring without need."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from world import World

from trtpipe.accuracy.reports import ParityReport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trtpipe.progress import Progress

VARIABLE = "METRIC_OF_A_TEST"


@dataclass(frozen=True)
class Way:
    """One way of reading a number: the body of ``value()``, and how its input is set to 1.0, then 2.0."""

    name: str
    body: str
    change: Callable[[Path, float], None]


def _file(folder: Path, value: float) -> None:
    (folder / "labels.json").write_text(str(value))


def _newer(folder: Path, value: float) -> None:
    (folder / f"{value:.0f}.txt").write_text(str(value))


def _appears(folder: Path, value: float) -> None:
    if value > 1:
        (folder / "better.txt").write_text(str(value))


def _module(folder: Path, value: float) -> None:
    (folder / "constants.py").write_text(f"VALUE = {value}  # {'x' * int(value)}\n")


def _database(folder: Path, value: float) -> None:
    import sqlite3

    connection = sqlite3.connect(folder / "scores.db")
    with connection:
        connection.execute("create table if not exists s(v real)")
        connection.execute("insert into s values (?)", (value,))
    connection.close()


def _variable(folder: Path, value: float) -> None:
    os.environ[VARIABLE] = str(value)


def _array(folder: Path, value: float) -> None:
    import numpy as np

    np.save(folder / "values.npy", np.float64([value]))


WAYS = (
    Way("json", "import json; return json.loads((HERE / 'labels.json').read_text())", _file),
    Way("open", "return float(open(HERE / 'labels.json').read())", _file),
    Way("variable", f"import os; return float(os.environ['{VARIABLE}'])", _variable),
    Way("glob", "import glob; return float(open(sorted(glob.glob(f'{HERE}/*.txt'))[-1]).read())", _newer),
    Way("count", "import os; return float(len(os.listdir(HERE)))", _newer),
    Way("missing", "p = HERE / 'better.txt'; return float(p.read_text()) if p.exists() else 1.0", _appears),
    Way("size", "return float((HERE / 'labels.json').stat().st_size - 2)", lambda f, v: _file(f, 10 ** (v - 1))),
    Way("module", "import sys; sys.path.insert(0, str(HERE)); import constants; return constants.VALUE", _module),
    Way("numpy", "import numpy as np; return float(np.load(HERE / 'values.npy')[0])", _array),
    Way("memmap", "import numpy as np; return float(np.load(HERE / 'values.npy', mmap_mode='r')[0])", _array),
)
UNSEEN = (
    Way("program", "import subprocess; return float(subprocess.check_output(['cat', HERE / 'labels.json']))", _file),
    Way("database", "import sqlite3; return sqlite3.connect(HERE / 'scores.db').execute("
        "'select max(v) from s').fetchone()[0]", _database),
)  # fmt: skip


def of_torch() -> tuple[Way, ...]:
    """Native code that opens the file by itself, and is imported after the metric was loaded."""
    body = "import torch; return float(torch.from_file(str(HERE / 'raw.bin'), size=1, dtype=torch.float64)[0])"

    def change(folder: Path, value: float) -> None:
        import numpy as np

        np.float64([value]).tofile(folder / "raw.bin")

    return (Way("torch.from_file", body, change),)


@pytest.fixture
def measured(world: World, heard_all: Progress, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[str, float]]:
    """The state of verify in one more build, and the value of the metric."""
    monkeypatch.setenv(VARIABLE, "1.0")
    recipe = {"evaluation": {"metric": f"{world.folder / 'code' / 'case.py'}:evaluate"}}

    def build() -> tuple[str, float]:
        steps = {step.label: step for step in world.run(world.job(recipe=recipe), heard_all)}
        artifact = steps["verify"].artifact
        assert artifact is not None
        return steps["verify"].state, ParityReport.read(artifact.path).metrics[0].value

    return build


def write(world: World, way: Way) -> Path:
    """The metric, in a folder of its own, and the folder that it reads."""
    code, data = world.folder / "code", world.folder / "data"
    code.mkdir()
    data.mkdir()
    body = way.body.replace("; ", "\n    ")
    (code / "case.py").write_text(
        f"from pathlib import Path\nHERE = Path({str(data)!r})\ndef value():\n    {body}\n"
        "def evaluate(run):\n    return {'m': value()}\n"
    )
    return data


@pytest.mark.parametrize("way", [*WAYS, *of_torch()], ids=lambda way: way.name)
def test_another_input_is_another_verdict_and_the_same_one_is_not_measured_again(
    world: World, measured: Callable[[], tuple[str, float]], way: Way
) -> None:
    if "torch" in way.name:
        pytest.importorskip("torch")
    data = write(world, way)
    way.change(data, 1.0)
    assert measured() == ("built", 1.0)
    assert measured() == ("hit", 1.0)
    way.change(data, 2.0)
    assert measured() == ("built", 2.0)
    assert measured() == ("hit", 2.0)


@pytest.mark.parametrize("way", UNSEEN, ids=lambda way: way.name)
def test_what_cannot_be_followed_is_measured_in_every_build(
    world: World, measured: Callable[[], tuple[str, float]], way: Way
) -> None:
    data = write(world, way)
    way.change(data, 1.0)
    assert [measured(), measured()] == [("built", 1.0)] * 2
    way.change(data, 2.0)
    assert measured() == ("built", 2.0)


def test_another_function_of_the_same_file_is_another_metric(world: World, heard_all: Progress) -> None:
    file = world.folder / "case.py"
    file.write_text("".join(f"def {name}(run): return {{'m': {value}}}\n" for name, value in (("a", 1), ("b", 2))))

    def value(function: str) -> float:
        recipe = {"evaluation": {"metric": f"{file}:{function}"}}
        steps = {step.label: step for step in world.run(world.job(recipe=recipe), heard_all)}
        artifact = steps["verify"].artifact
        assert artifact is not None
        return ParityReport.read(artifact.path).metrics[0].value

    assert [value("a"), value("b"), value("a")] == [1.0, 2.0, 1.0]


def test_files_beside_a_metric_that_it_does_not_read_change_nothing(
    world: World, measured: Callable[[], tuple[str, float]]
) -> None:
    _file(write(world, WAYS[0]), 1.0)
    assert measured() == ("built", 1.0)
    (world.folder / "code" / "notes.txt").write_text("x")
    assert measured() == ("hit", 1.0)


def test_an_earlier_state_is_measured_again_rather_than_mistaken(
    world: World, measured: Callable[[], tuple[str, float]]
) -> None:
    """The metric reads another file after the switch: nobody may believe what was read before."""
    data = write(world, Way("switch", "return float((HERE / (HERE / 'switch.txt').read_text()).read_text())", _file))
    (data / "switch.txt").write_text("one.txt")
    (data / "one.txt").write_text("1.0")
    (data / "two.txt").write_text("2.0")
    assert measured() == ("built", 1.0)
    (data / "switch.txt").write_text("two.txt")
    assert measured() == ("built", 2.0)
    (data / "one.txt").write_text("3.0")
    assert measured() == ("hit", 2.0)
    (data / "switch.txt").write_text("one.txt")
    assert measured() == ("built", 3.0)
