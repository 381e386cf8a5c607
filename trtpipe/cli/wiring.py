"""How an option finds its way into the Session: the parts that options are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import click

from trtpipe.cli.groups import TopicOption
from trtpipe.cli.listeners import LogFile
from trtpipe.cli.overrides import Override
from trtpipe.cli.session import Session
from trtpipe.config.formats import Precision
from trtpipe.config.target import find_target
from trtpipe.config.units import amount, parse_amount
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Decorator: TypeAlias = "Callable[[Any], Any]"
Store: TypeAlias = Callable[[Session, Any], None]

#: Hands the Session to a command.
pass_session = click.make_pass_decorator(Session)


def stacked(*decorators: Decorator) -> Decorator:
    """Several decorators as one; the first one's option comes first in the help."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def session_option(*names: str, store: Store, **attributes: Any) -> Decorator:
    """An option whose value goes into the Session instead of the command's parameters."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and value is not False and value != ():
            store(context.ensure_object(Session), value)

    return click.option(*names, cls=TopicOption, expose_value=False, callback=callback, **attributes)


def _key_option(
    overrides: Callable[[Session], list[Override]],
    name: str,
    key: str,
    topic: str,
    help: str,
    *,
    common: bool = False,
    parse: Callable[[Any], object] | None = None,
    **attributes: Any,
) -> Decorator:
    """An option that overrides one ``key`` of a file (``build.workspace``); ``parse`` may raise ValueError."""

    def store(session: Session, value: Any) -> None:
        given = value if parse is None else parsed(name, parse, value)
        overrides(session).append(Override(tuple(key.split(".")), given, name))

    return session_option(name, store=store, topic=topic, common=common, help=help, **attributes)


#: An option that overrides a key of the deployment profile, and one that overrides a key of the calibration recipe.
profile_option = partial(_key_option, attrgetter("profile_overrides"))
recipe_option = partial(_key_option, attrgetter("recipe_overrides"))


def package_option(name: str, attribute: str, help: str, *, topic: str, **attributes: Any) -> Decorator:
    """An option of ``package make``: its value becomes an attribute of ``Session.package``."""

    def store(session: Session, value: Any) -> None:
        setattr(session.package, attribute, value)

    return session_option(name, store=store, topic=topic, help=help, **attributes)


def parsed(option: str, parse: Callable[[Any], T], value: Any) -> T:
    """What ``option`` was given, read by ``parse``.

    Raises:
        InputError: ``parse`` raised ValueError.
    """
    try:
        return parse(value)
    except ValueError as error:
        raise InputError(f"{option}: {error}", f"correct {option}") from error


def setter(attribute: str, value: object = None) -> Store:
    """Stores what the option was given, or ``value``, as an attribute of the Session."""
    return lambda session, given: setattr(session, attribute, given if value is None else value)


def set_precision(precision: Precision) -> Store:
    """Sets the precision; with a second one that which computes in both, as ``--int8 --fp16`` does in trtexec."""

    def store(session: Session, _: bool) -> None:
        option, chosen = f"--{precision}", precision
        for other in [each for each in session.profile_overrides if each.at == ("precision",)]:
            both = precision.joined(other.value) if isinstance(other.value, Precision) else None
            if both is None:
                raise InputError(f"{other.option} and --{precision} contradict each other", "choose one precision")
            option, chosen = f"{other.option} --{precision}", both
            session.profile_overrides.remove(other)
        session.profile_overrides.append(Override(("precision",), chosen, option))

    return store


def add_shapes(option: str) -> Store:
    """Keeps what a shape option was given, each time it was used."""

    def store(session: Session, texts: tuple[str, ...]) -> None:
        from trtpipe.config.shapes import parse_shapes

        given = [text for text in texts if not (option == "--shapes" and text.strip() == "auto")]
        session.auto_shapes = session.auto_shapes or len(given) < len(texts)
        if given:
            session.shapes[option] = [parse_shapes(text) for text in given]

    return store


def add_floors(session: Session, texts: tuple[str, ...]) -> None:
    """Keeps the least values of metrics."""
    for name, value in floors(texts).items():
        session.profile_overrides.append(Override(("accuracy", "min_metric", name), value, "--min-metric"))


def floors(texts: Iterable[str]) -> dict[str, float | str]:
    """Least values from what ``--min-metric`` was given: ``top1=91%``.

    Raises:
        InputError: one is no such thing.
    """
    found = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not (name and equals):
            raise InputError(f"--min-metric: {text!r} names no metric", "write --min-metric top1=91%")
        found[name.strip()] = parsed("--min-metric", parse_amount, value)
    return found


def add_tolerances(option: str) -> Store:
    """Sets a tolerance, for all outputs (``1e-3``) or for one (``logits:1e-3``)."""
    key = option.removeprefix("--").replace("-", "_")

    def store(session: Session, texts: tuple[str, ...]) -> None:
        for text in texts:
            output, colon, number = text.rpartition(":")
            if colon and not output:
                raise InputError(f"{option}: {text!r} names no output", f"write {option} {number}, or OUTPUT{text}")
            at = ("tolerance", "outputs", output, key) if output else ("tolerance", key)
            session.profile_overrides.append(Override(at, parsed(option, _number, number), option))

    return store


def _number(text: str) -> float:
    try:
        return amount(parse_amount(text), bounded=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a number; write 1e-3, or OUTPUT:1e-3") from None


def split_names(given: tuple[str, ...]) -> tuple[str, ...]:
    """From an option that may be repeated, and may hold several names separated by commas."""
    return tuple(name.strip() for text in given for name in text.split(",") if name.strip())


def numbers(given: tuple[str, ...]) -> tuple[int, ...]:
    """From an option that may be repeated, and may hold several whole numbers separated by commas."""
    try:
        return tuple(int(text) for text in split_names(given))
    except ValueError:
        raise ValueError(f"{', '.join(given)!r} are not whole numbers; write 1,8,32") from None


def negated(given: bool) -> bool:
    """From a flag that switches something off."""
    return not given


def target_names(given: tuple[str, ...]) -> tuple[str, ...]:
    """Capabilities from what people call their GPUs."""
    names = split_names(given)
    if not names:
        raise ValueError("no target is named")
    return tuple(find_target(name).name for name in names)


def start_log(session: Session, path: Path) -> None:
    """Opens the log file at once, so that an error is reported before any work."""
    session.log = LogFile(path)
