"""Every ``TRTPIPE_*`` environment variable, read once, here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.config.authenticity import UserKey
from trtpipe.config.paths import path_of
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What a confined child keeps of the environment: how to find libraries, languages and time zones, how many threads to
#: use, and our own limits. Never what may hold a secret.
_KEPT = frozenset(
    {
        *("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TZDIR", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "LOCPATH"),
        *("PYTHONHOME", "PYTHONPATH", "PYTHONHASHSEED", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONNOUSERSITE"),
        *("PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS", "PYTHONFAULTHANDLER", "PYTHONMALLOC"),
        *("TRTPIPE_CACHE_DIR", "TRTPIPE_WORKER_SECONDS", "TRTPIPE_WORKER_MEMORY_GB", "TRTPIPE_JOBS"),
        *("TRTPIPE_THREADS", "TRTPIPE_SANDBOX", "ORT_DISABLE_TELEMETRY"),
    }
)
_KEPT_FAMILIES = ("LC_", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "MALLOC_")
#: The secret that authenticates the cache, which only the process that has the cache needs.
_CACHE_KEY = "TRTPIPE_CACHE_KEY"
#: A shorter text is guessed too soon.
_LEAST_SECRET = 16
#: Settings that are numbers: the least they may be, and whether they are whole.
_NUMBERS = (
    ("worker_seconds", 1e-9, False),
    ("worker_memory", 1, True),
    ("threads", 0, True),
    ("jobs", 1, True),
    ("engine_seconds", 1e-9, False),
    ("engine_memory", 1, True),
    ("store_lease", 1e-9, False),
)


def environment() -> Mapping[str, str]:
    """The process's whole environment, which the user's code may read. What trtpipe itself reads is in ``Settings``."""
    return os.environ


def user_key(given: Mapping[str, str] | None = None) -> UserKey:
    """Where the key is that proves what this user's trtpipe has written (``TRTPIPE_CACHE_KEY``, or a file in the
    user's configuration folder).

    Raises:
        InputError: the text given is too short to be a secret.
    """
    env = os.environ if given is None else given
    secret = env.get(_CACHE_KEY, "")
    if secret and len(secret) < _LEAST_SECRET:
        raise InputError(
            f"environment variable {_CACHE_KEY} has {len(secret)} characters, a secret needs {_LEAST_SECRET}",
            "set it to a random text, such as `openssl rand -hex 32` prints",
        )
    base = env.get("XDG_CONFIG_HOME", "")
    if Path(base).is_absolute():  # the XDG specification ignores relative paths
        return UserKey(secret, Path(base) / "trtpipe" / "cache.key")
    try:
        return UserKey(secret, Path(env.get("HOME") or "~", ".config", "trtpipe", "cache.key").expanduser())
    except RuntimeError:
        return UserKey(secret, None)


def secret(name: str) -> str:
    """The value of an environment variable that the user named because it holds a secret.

    Raises:
        InputError: it is not set, or empty.
    """
    value = os.environ.get(name, "")
    if not value:
        raise InputError(f"environment variable {name:.100} is not set", f"put the secret into {name:.100}")
    return value


def confined_environment() -> dict[str, str]:
    """The part of the environment that a confined child gets."""
    return {name: os.environ[name] for name in os.environ if name in _KEPT or name.startswith(_KEPT_FAMILIES)}


def reduce_environment() -> None:
    """Give up all of this process's environment that a confined child does not get."""
    replace_environment({os.fsencode(name): os.fsencode(value) for name, value in confined_environment().items()})


def child_environment() -> dict[bytes, bytes]:
    """The environment of a child that is not confined: all of this process's but the secret of the cache."""
    return {name: value for name, value in os.environb.items() if name != os.fsencode(_CACHE_KEY)}


def replace_environment(environment: Mapping[bytes, bytes]) -> None:
    """Make ``environment`` this process's own."""
    os.environb.clear()
    os.environb.update(environment)


@dataclass(frozen=True)
class Settings:
    """Settings from the environment. None of them may change the bytes of an artifact.

    Raises:
        InputError: one is of the wrong kind; the message names it.

    Attributes:
        cache_dir: the folder of the artifact store (``TRTPIPE_CACHE_DIR``; default: the user's cache folder).
        worker_seconds: time limit of one child process (``TRTPIPE_WORKER_SECONDS``); ``None``: by the work and the
            model's size.
        worker_memory: memory limit of one child process in bytes (``TRTPIPE_WORKER_MEMORY_GB``); ``None``: by the
            model's size, and at most 90 % of the machine's memory.
        sandbox: whether child processes that read untrusted files are confined to them (``TRTPIPE_SANDBOX``).
        engine_seconds, engine_memory: limits of the build of one engine, in seconds and bytes, from the profile's
            ``[build]`` table; ``None``: as for other child processes.
        jobs: engines that may be built at once (``TRTPIPE_JOBS``); ``None``: by cores and free memory.
        threads: threads onnxruntime may use (``TRTPIPE_THREADS``); 0 means its own default.
        key: where the key is that cache entries are authenticated with (``TRTPIPE_CACHE_KEY``, ``XDG_CONFIG_HOME``).
        store: the address of a store that machines share (``TRTPIPE_STORE``); ``None``: that of the profile, if any.
        store_lease: seconds without a sign of life after which another machine takes over what one was building
            (``TRTPIPE_STORE_LEASE``).
        isolate: whether onnxruntime runs models in a child process; inside a child it does not (``in_child``).
    """

    cache_dir: Path  # a str is taken, too
    worker_seconds: float | None = None
    worker_memory: int | None = None
    threads: int = 0
    sandbox: bool = True
    isolate: bool = True
    jobs: int | None = None
    engine_seconds: float | None = None
    engine_memory: int | None = None
    store: str | None = field(default=None, repr=False)
    store_lease: float = 30.0
    key: UserKey = field(default_factory=user_key, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache_dir", path_of(self.cache_dir, "cache_dir"))
        for name, least, whole in _NUMBERS:
            value: object = getattr(self, name)
            kinds = (int,) if whole else (int, float)
            if value is None and name != "threads":
                continue
            if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value < float("inf"):
                kind = f"a whole number of {least} or more" if whole else "a number of seconds above 0"
                raise InputError(f"{name}: {value!r} is not {kind}", f"give Settings({name}=...) one, or leave it out")
        for name in ("sandbox", "isolate"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(
                    f"{name}: {getattr(self, name)!r} is neither True nor False", f"give Settings({name}=...) one"
                )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the settings from ``environment`` (default: the process's own).

        Raises:
            InputError: a variable is not a number where one is needed.
        """
        env = os.environ if environment is None else environment
        memory_gb = _number(env, "TRTPIPE_WORKER_MEMORY_GB")
        return cls(
            cache_dir=_cache_dir(env),
            worker_seconds=_number(env, "TRTPIPE_WORKER_SECONDS"),
            worker_memory=None if memory_gb is None else int(memory_gb * 1e9),
            jobs=_count(env, "TRTPIPE_JOBS") or None,
            threads=_count(env, "TRTPIPE_THREADS"),
            sandbox=_switch(env, "TRTPIPE_SANDBOX"),
            store=env.get("TRTPIPE_STORE") or None,
            store_lease=_number(env, "TRTPIPE_STORE_LEASE") or 30.0,
            key=user_key(env),
        )

    @classmethod
    def in_child(cls) -> Settings:
        """The settings inside a child process, which isolates nothing further."""
        return replace(cls.from_environment(), isolate=False)


def _cache_dir(env: Mapping[str, str]) -> Path:
    name, chosen = "TRTPIPE_CACHE_DIR", env.get("TRTPIPE_CACHE_DIR")
    base = env.get("XDG_CACHE_HOME", "")
    if not chosen and Path(base).is_absolute():  # the XDG specification ignores relative paths
        return Path(base) / "trtpipe"
    try:
        return Path(chosen or Path(env.get("HOME") or "~", ".cache", "trtpipe")).expanduser()
    except RuntimeError as error:
        raise InputError(f"no home folder is known for {chosen or '~'}", f"set {name} to a folder") from error


def _count(env: Mapping[str, str], name: str) -> int:
    text = env.get(name) or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InputError(f"environment variable {name} is {text!r}, not a whole number", f"correct or unset {name}")
    return int(text)


def _switch(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name) or "on"
    if text not in {"on", "off"}:
        raise InputError(f"environment variable {name} is {text!r}, neither on nor off", f"correct or unset {name}")
    return text == "on"


def _number(env: Mapping[str, str], name: str) -> float | None:
    text = env.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise InputError(f"environment variable {name} is {text!r}, not a positive number", f"correct or unset {name}")
    return value
