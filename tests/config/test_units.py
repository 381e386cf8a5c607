from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe.config.units import (
    exact_bytes,
    exact_seconds,
    format_bytes,
    format_count,
    format_seconds,
    parse_bytes,
    parse_seconds,
    suggestion,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4G", 4 * 1024**3),
        ("4GiB", 4 * 1024**3),
        ("4gb", 4 * 1024**3),
        ("512M", 512 * 1024**2),
        ("1.5K", 1536),
        ("2T", 2 * 1024**4),
        ("12B", 12),
        ("  3 MB ", 3 * 1024**2),
        ("9007199254740993B", 9007199254740993),
    ],
)
def test_parse_bytes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["", "G", "4X", "-1", "0B", "0G", "0.2B", "0.0001K", "4iB", "1e3", "nan", "inf", "4 G B"]
)
def test_bad_bytes(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)


def test_zero_is_no_size_in_any_unit_but_a_time_in_each() -> None:
    with pytest.raises(ValueError, match="'0' is not a size"):
        parse_bytes("0")
    with pytest.raises(ValueError, match="no unit: write 0ms or 0s"):
        parse_seconds("0")


@pytest.mark.parametrize("text", ["4096", "1", " 0.5 "])
def test_a_number_alone_is_neither_a_size_nor_a_time(text: str) -> None:
    number = text.strip()
    with pytest.raises(ValueError, match=f"no unit: write {number}M or {number}G"):
        parse_bytes(text)
    with pytest.raises(ValueError, match=f"no unit: write {number}ms or {number}s"):
        parse_seconds(text)


@given(st.integers(1, 2**50), st.floats(1e-6, 1e7))
def test_quantities_written_exactly_are_read_back(count: int, seconds: float) -> None:
    assert parse_bytes(exact_bytes(count)) == count
    assert parse_seconds(exact_seconds(seconds)) == seconds


@pytest.mark.parametrize("text", ["9" * 400 + "G", "1." + "0" * 5000, "9" * 5000])
def test_absurd_sizes_are_refused_not_computed(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("200ms", 0.2), ("3s", 3.0), ("1.5min", 90.0), ("2h", 7200.0), ("1.5d", 129600.0), ("50us", 5e-5), (" 1 s ", 1.0)],
)
def test_parse_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("text", ["", "s", "-1s", "3 seconds", "1e3s", "nan s", "9" * 400 + "s", "3S"])
def test_bad_seconds(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_000, "1.2 MB"),
        (123_400_000, "123 MB"),
        (999_960, "1.0 MB"),
        (99_960, "100 kB"),
        (2_500_000_000, "2.5 GB"),
        (5_000_000_000_000, "5000 GB"),
    ],
)
def test_format_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 us"),
        (820e-6, "820 us"),
        (0.00099996, "1 ms"),
        (0.0123, "12.3 ms"),
        (0.9996, "1.0 s"),
        (4.5, "4.5 s"),
        (59.96, "1 min 00 s"),
        (119.7, "2 min 00 s"),
        (125, "2 min 05 s"),
        (3600, "60 min 00 s"),
    ],
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@given(st.integers(1, 10**15))
def test_formatted_sizes_are_short_and_close(count: int) -> None:
    number, unit = format_bytes(count).split()
    scale = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}[unit]
    assert float(number) * scale == pytest.approx(count, rel=0.051)
    assert unit == "GB" or float(number) < 1000


@given(st.floats(1e-5, 1e5))
def test_formatted_durations_are_plain_and_close(seconds: float) -> None:
    text = format_seconds(seconds)
    assert "e" not in text
    parts = text.split()
    scales = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
    total = sum(float(number) * scales[unit] for number, unit in zip(parts[::2], parts[1::2], strict=True))
    assert total == pytest.approx(seconds, rel=0.051)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1200, "1.2 k"), (41_300_000, "41.3 M"), (999_600, "1 M"), (4_100_000_000, "4.1 G"),
     (123_456_789_000_000_000, "1.23e+05 T")],
)  # fmt: skip
def test_counts(count, text):
    assert format_count(count) == text


def test_a_suggestion_names_the_nearest_word_and_all_there_are() -> None:
    assert suggestion("zzz", ["alpha", "beta"], "inputs") == "inputs: alpha, beta"
    assert suggestion("bata", ["alpha", "beta"], "inputs here") == "did you mean 'beta'? inputs here: alpha, beta"
    assert suggestion("x", (), "inputs") == "inputs: none"
