"""The store against a dictionary: any sequence of operations must look the same from outside."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from trtpipe.artifact import Draft
from trtpipe.store import ArtifactStore, Key

numbers = st.integers(0, 4)
contents = st.dictionaries(st.sampled_from(["a", "b", "c.data"]), st.binary(max_size=20), min_size=1)


def key_of(number: int) -> Key:
    return Key(stage="lower" if number % 2 else "compile", settings={"number": number})


class StoreMachine(RuleBasedStateMachine):
    """Two handles on one store, as two processes would have; ``model`` says what must be found."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model: dict[int, dict[str, bytes]] = {}
        self.facts: dict[int, object] = {}
        self.stores: list[ArtifactStore] = []

    @initialize()
    def open(self) -> None:
        self.stores = [ArtifactStore(self.folder / "cache") for _ in range(2)]

    @rule(which=st.integers(0, 1), number=numbers, content=contents)
    def put(self, which: int, number: int, content: dict[str, bytes]) -> None:
        with self.stores[which].workdir() as folder:
            for name, data in content.items():
                (folder / name).write_bytes(data)
            self.stores[which].put(key_of(number), Draft("model", folder, tuple(content)), 0)
        self.model.setdefault(number, content)

    @rule(which=st.integers(0, 1), number=numbers)
    def look_up(self, which: int, number: int) -> None:
        artifact = self.stores[which].lookup(key_of(number))
        found = artifact and {file.name: (artifact.folder / file.name).read_bytes() for file in artifact.files}
        assert found == self.model.get(number)

    @rule(which=st.integers(0, 1), number=numbers)
    def peek(self, which: int, number: int) -> None:
        assert (self.stores[which].peek(key_of(number)) is not None) == (number in self.model)

    @rule(number=numbers, where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), verify=st.booleans())
    def corrupt(self, number: int, where: float, bit: int, verify: bool) -> None:
        if self.model.pop(number, None) is None:
            return
        (place,) = (self.folder / "cache" / "v1").glob(f"*/*/{key_of(number).digest}-*")
        paths = [path for path in sorted(place.iterdir()) if path.stat().st_size]
        path = paths[int(where * len(paths))]
        data = bytearray(path.read_bytes())
        data[int(where * len(data))] ^= 1 << bit
        path.chmod(0o600)
        path.write_bytes(data)
        if verify:
            found = self.stores[0].verify()  # a bit of the key's own name makes it one of somebody else
            assert len(found.corrupt) + found.foreign == 1
        else:
            assert self.stores[0].lookup(key_of(number)) is None

    @rule(number=numbers)
    def lose_a_file(self, number: int) -> None:
        if self.model.pop(number, None) is not None:
            (place,) = (self.folder / "cache" / "v1").glob(f"*/*/{key_of(number).digest}-*")
            next(place.iterdir()).unlink()
            assert self.stores[1].lookup(key_of(number)) is None

    @rule()
    def prune_in_use(self) -> None:
        """The other handle's artifacts stay, whatever the limit."""
        self.stores[0].close()
        self.stores[1].close()
        kept = {number for number in self.model if number % 2}
        for number in kept:
            assert self.stores[1].lookup(key_of(number)) is not None
        report = self.stores[0].prune(max_bytes=0)
        assert report.in_use == len(kept)
        self.model = {number: self.model[number] for number in kept}

    @rule()
    def clear(self) -> None:
        for store in self.stores:
            store.close()
        self.stores[0].clear()
        self.model, self.facts = {}, {}

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        self.stores[which].close()
        self.stores[which] = ArtifactStore(self.folder / "cache")

    @rule(with_folder=st.booleans())
    def crash(self, with_folder: bool) -> None:
        """What a killed process leaves behind is gone after the next opening."""
        tmp = self.folder / "cache" / "tmp"
        if tmp.is_dir():
            (tmp / "0123456789abcdef.lock").write_bytes(b"")
            if with_folder:
                (tmp / "0123456789abcdef").mkdir()
                (tmp / "0123456789abcdef" / "half").write_bytes(b"half")
            self.reopen(0)
            assert list(tmp.iterdir()) == []

    @rule(which=st.integers(0, 1), number=numbers, value=st.none() | st.integers() | st.lists(st.text("ab")))
    def remember(self, which: int, number: int, value: object) -> None:
        self.stores[which].remember(f"fact {number}", value)  # type: ignore[arg-type]
        self.facts[number] = value

    @rule(which=st.integers(0, 1), number=numbers)
    def recall(self, which: int, number: int) -> None:
        assert self.stores[which].recall(f"fact {number}") == self.facts.get(number)

    @invariant()
    def lists_what_it_holds(self) -> None:
        for store in self.stores:
            listed = list(store.entries())
            assert {stored.entry.key.settings["number"] for stored in listed} == set(self.model)
            stamps = [stored.last_used for stored in listed]
            assert stamps == sorted(stamps)

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        shutil.rmtree(self.folder)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.slow
class TestManySequences(StoreMachine.TestCase):
    """More of the same."""

    settings = settings(
        max_examples=2000, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
