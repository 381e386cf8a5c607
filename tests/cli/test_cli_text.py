"""Text on its way out."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe.cli.tables import line, metadata, table
from trtpipe.cli.text import emit
from trtpipe.config.units import printable


class TestPrintable:
    @given(st.text(alphabet=st.characters(codec=None, exclude_categories=[]), max_size=50))
    def test_is_one_line_that_no_terminal_obeys(self, text: str) -> None:
        shown = printable(text)
        assert all(char.isprintable() for char in shown)
        shown.encode("utf-8")

    @given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126)))
    def test_leaves_plain_text_alone(self, text: str) -> None:
        assert printable(text) == text

    @pytest.mark.parametrize(
        ("text", "shown"), [("naïve 模型", "naïve 模型"), ("a\x1b[0mb", r"a\x1b[0mb"), ("\udc80", r"\udc80")]
    )
    def test_examples(self, text: str, shown: str) -> None:
        assert printable(text) == shown


def test_a_line_stays_one() -> None:
    assert line("whole: x\nsigned by: A") == r"whole: x\nsigned by: A"


class TestEmit:
    def test_what_the_encoding_lacks_is_escaped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        raw = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
        emit("模 ok")
        assert raw.getvalue() == b"\\u6a21 ok\n"


class TestTable:
    def test_columns_line_up_and_no_line_ends_in_blanks(self) -> None:
        lines = table(("name", "size"), [("a", "10 kB"), ("longer", "9 B")], right=("size",)).splitlines()
        assert lines[0].split() == ["name", "size"]
        assert set(lines[1]) == {"─"}
        assert [line.index("B") for line in lines[2:]] == [lines[2].index("B")] * 2
        assert not any(re.search(r"\s$", line) for line in lines)

    def test_markup_and_control_characters_in_cells_are_text(self) -> None:
        assert "[bold]x[/bold] \\x1b[1m :smile:" in table(("a",), [("[bold]x[/bold] \x1b[1m :smile:",)])

    def test_long_cells_are_never_cut(self) -> None:
        words = " ".join(f"w{number}" for number in range(200))
        assert metadata([("k", words)]).split()[1:] == words.split()
