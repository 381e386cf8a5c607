from __future__ import annotations

from pathlib import Path

import pytest

from trtpipe.config.settings import Settings
from trtpipe.errors import InputError


def cache(**environment: str) -> Path:
    return Settings.from_environment(environment).cache_dir


def test_defaults() -> None:
    found = Settings.from_environment({"HOME": "/home/me"})
    assert found == Settings(Path("/home/me/.cache/trtpipe"), None, None, 0, sandbox=True)


def test_cache_folder() -> None:
    assert cache(HOME="/h", XDG_CACHE_HOME="/xdg") == Path("/xdg/trtpipe")
    assert cache(HOME="/h", XDG_CACHE_HOME="/xdg", TRTPIPE_CACHE_DIR="/mine") == Path("/mine")
    assert cache(HOME="/h", TRTPIPE_CACHE_DIR="") == Path("/h/.cache/trtpipe")
    assert cache(TRTPIPE_CACHE_DIR="relative/dir") == Path("relative/dir")


@pytest.mark.parametrize("base", ["", "relative", "./x", "~"])
def test_a_relative_xdg_folder_is_ignored_as_its_specification_says(base: str) -> None:
    assert cache(HOME="/h", XDG_CACHE_HOME=base) == Path("/h/.cache/trtpipe")


def test_without_a_home_the_password_file_is_asked() -> None:
    for environment in ({}, {"HOME": ""}):
        found = cache(**environment)
        assert found.is_absolute()
        assert found.parts[-2:] == (".cache", "trtpipe")


def test_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert cache(TRTPIPE_CACHE_DIR="~/c") == Path("/home/me/c")
    with pytest.raises(InputError, match="no home folder") as caught:
        cache(TRTPIPE_CACHE_DIR="~no-such-user-here/c")
    assert "TRTPIPE_CACHE_DIR" in caught.value.remedy


def test_numbers() -> None:
    found = Settings.from_environment(
        {
            "HOME": "/h",
            "TRTPIPE_WORKER_SECONDS": "1.5",
            "TRTPIPE_WORKER_MEMORY_GB": "0.5",
            "TRTPIPE_THREADS": "3",
            "TRTPIPE_JOBS": "4",
        }
    )
    assert (found.worker_seconds, found.worker_memory, found.threads, found.jobs) == (1.5, 500_000_000, 3, 4)


def test_the_sandbox_can_be_switched_off() -> None:
    assert Settings.from_environment({"HOME": "/h", "TRTPIPE_SANDBOX": "on"}).sandbox
    assert not Settings.from_environment({"HOME": "/h", "TRTPIPE_SANDBOX": "off"}).sandbox
    with pytest.raises(InputError, match="TRTPIPE_SANDBOX is 'no', neither on nor off"):
        Settings.from_environment({"HOME": "/h", "TRTPIPE_SANDBOX": "no"})


def test_zero_threads_means_the_default() -> None:
    assert Settings.from_environment({"HOME": "/h", "TRTPIPE_THREADS": "0"}).threads == 0


@pytest.mark.parametrize("name", ["TRTPIPE_WORKER_SECONDS", "TRTPIPE_WORKER_MEMORY_GB"])
@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e999", "many", "1,5"])
def test_bad_numbers_are_named(name: str, text: str) -> None:
    with pytest.raises(InputError, match=f"{name} is '{text}'") as caught:
        Settings.from_environment({"HOME": "/h", name: text})
    assert name in caught.value.remedy


@pytest.mark.parametrize("text", ["-1", "1.5", "many", "1e3", "9" * 10, "²"])
@pytest.mark.parametrize("name", ["TRTPIPE_THREADS", "TRTPIPE_JOBS"])
def test_counts_are_whole(name: str, text: str) -> None:
    with pytest.raises(InputError, match=name):
        Settings.from_environment({"HOME": "/h", name: text})


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTPIPE_CACHE_DIR", "/from/process")
    assert Settings.from_environment().cache_dir == Path("/from/process")
