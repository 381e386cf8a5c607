"""What the Markdown pages promise: links, commands, code, tables."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from test_architecture import LAYERS

import trtpipe
from trtpipe.cli.app import root
from trtpipe.cli.groups import HELP_NAMES
from trtpipe.cli.session import Session
from trtpipe.config.formats import Precision

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md")]
    + [
        page
        for folder in ("benchmarks", "calib", "docs", "examples", "profiles")
        for page in (ROOT / folder).rglob("*.md")
    ]
)
#: Pages whose commands are meant to be typed as they stand.
MANUALS = [ROOT / "README.md", *sorted((ROOT / "examples").glob("*/README.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_ABSOLUTE = re.compile(r"(?<![\w.:/)}<*-])/[A-Za-z_][\w.-]*/|(?<!\w)~/|\b[A-Z]:\\")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """The page without its code blocks."""
    return _FENCE.sub("", text)


def tables(text: str) -> Iterator[list[list[str]]]:
    """Every table, as rows of cells; the first row is the head."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        yield [rows[0], *rows[2:]]


def table_headed(name: str, head: str) -> list[list[str]]:
    """The body of the one table on a page whose first column is called ``head``."""
    (found,) = (rows[1:] for rows in tables(text_of(name)) if rows[0][0] == head)
    return found


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(text))}


def commands_in(path: Path) -> Iterator[list[str]]:
    """Every ``trtpipe`` command line in the code blocks of a page, output that names the next one included."""
    for _, code in _FENCE.findall(path.read_text(encoding="utf-8")):
        for line in code.replace("\\\n", " ").splitlines():
            if match := re.match(r"(?:\$ |next: +)?trtpipe (.*)", line):
                yield shlex.split(match[1], comments=True)


def mentions_in(path: Path) -> Iterator[list[str]]:
    """Every `trtpipe ...` in the running text of a page; ``a | b`` names two."""
    for code in re.findall(r"`trtpipe ([^`]+)`", prose(path.read_text(encoding="utf-8"))):
        first, *others = (shlex.split(part) for part in code.split("|"))
        yield first
        yield from ([*first[:-1], *other] for other in others)


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command a line names, and what follows it."""
    command: click.Command = root
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"no command is called {words[0]!r}"
        command, words = found, words[1:]
    return command, words


def parse(words: list[str]) -> None:
    """Read a whole command line as Click would, without running it."""
    command, rest = command_of(words)
    command.make_context(command.name, rest, obj=Session())


def check_options(words: list[str]) -> None:
    """Look at the command and the options of a line that need not be complete."""
    command, rest = command_of(words)
    known = {
        name
        for parameter in command.get_params(click.Context(command, help_option_names=HELP_NAMES))
        for name in parameter.opts
    }
    assert {word for word in rest if re.match(r"--?[a-z]", word)} <= known | {"--help"}


class TestLinks:
    @pytest.mark.parametrize("path", PAGES, ids=name_of)
    def test_relative_ones_lead_somewhere(self, path: Path) -> None:
        for link in _LINK.findall(prose(path.read_text(encoding="utf-8"))):
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            found = (path.parent / target).resolve() if target else path
            assert found.is_relative_to(ROOT), link
            assert found.exists(), link
            if anchor:
                assert anchor in anchors(found.read_text(encoding="utf-8")), link

    def test_every_page_of_the_documentation_can_be_reached_from_the_readme(self) -> None:
        seen, waiting = set(), [ROOT / "README.md"]
        while waiting:
            page = waiting.pop()
            seen.add(page)
            links = {(page.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(page.read_text())}
            waiting += [link for link in links if link in PAGES and link not in seen]
        assert {name_of(page) for page in PAGES} == {name_of(page) for page in seen}

    @pytest.mark.parametrize("path", PAGES, ids=name_of)
    def test_no_absolute_path(self, path: Path) -> None:
        assert _ABSOLUTE.findall(path.read_text(encoding="utf-8")) == []


class TestCommands:
    @pytest.mark.parametrize("path", MANUALS, ids=name_of)
    def test_can_be_typed_as_they_stand(self, path: Path) -> None:
        found = list(commands_in(path))
        assert found
        for words in found:
            parse(words)

    @pytest.mark.parametrize("path", PAGES, ids=name_of)
    def test_mentioned_ones_exist_with_their_options(self, path: Path) -> None:
        for words in mentions_in(path):
            check_options(words)

    @pytest.mark.parametrize(
        "line",
        [
            "buidl m.onnx -o out",
            "cache purge",
            "build m.onnx -o out --int9",
            "build m.onnx",
            "build m.onnx -o o --atol x",
        ],
    )
    def test_wrong_ones_are_noticed(self, line: str) -> None:
        with pytest.raises((click.UsageError, trtpipe.InputError, AssertionError)):
            parse(shlex.split(line))

    @pytest.mark.parametrize("line", ["cache purge", "verify --atoll 1", "--verson"])
    def test_wrong_mentions_are_noticed(self, line: str) -> None:
        with pytest.raises(AssertionError):
            check_options(shlex.split(line))

    def test_files_named_in_the_readme_s_demo_exist(self) -> None:
        (demo,) = (words for words in commands_in(ROOT / "README.md") if "profiles/digits.toml" in words)
        for word in demo:
            if re.search(r"\.(py|toml)\b", word):
                assert (ROOT / word.partition(":")[0]).is_file(), word

    @pytest.mark.parametrize("path", MANUALS, ids=name_of)
    def test_make_knows_its_targets(self, path: Path) -> None:
        makefile = text_of("Makefile")
        for code in (code for _, code in _FENCE.findall(path.read_text(encoding="utf-8"))):
            for target in re.findall(r"^make (\w+)", code, re.MULTILINE):
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


class TestPythonApi:
    def test_code_runs_as_it_stands(self, tmp_path: Path) -> None:
        """In a copy of what it reads, with the null back-end for speed, and one cache that is thrown away."""
        for folder in ("calib", "examples", "profiles"):
            shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
        profile = tmp_path / "profiles" / "digits.toml"
        settings = profile.read_text().replace('backend = "tensorrt-rtx"', 'backend = "null"')
        profile.write_text(settings.replace('duration = "1s"', 'duration = "10ms"'))
        blocks = [code for language, code in _FENCE.findall(text_of("docs/python-api.md")) if language == "python"]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TRTPIPE_")},
            "TRTPIPE_CACHE_DIR": str(tmp_path / "cache"),
        }
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(blocks)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        steps = [line.split()[0] for line in done.stdout.splitlines()]
        assert steps[:5] == ["export", "simplify", "observe", "calibrate", "lower"]
        verdict = "passed on the lowered graph (onnxruntime, CPU, 449 samples); engines not executed"
        assert f"{Path('build/digits')} {verdict}" in done.stdout.splitlines()
        assert re.search(r"^lowered top1 0\.9[5-9]", done.stdout, re.MULTILINE)
        assert trtpipe.Manifest.read(tmp_path / "build" / "digits" / "manifest.json").precision == "int8"
        assert trtpipe.inspect(tmp_path / "build" / "small" / "model.onnx").kind == "model"
        small = Path("build/small/simplified.onnx")
        listed, summary, path = done.stdout.splitlines()[-3:]
        assert (listed, Path(path)) == ("ranges.json statistics.npz", small)
        assert summary.startswith("<BuildResult: ")
        assert str(small) in summary

    def test_functions_take_the_arguments_named(self) -> None:
        for cell, _ in table_headed("docs/python-api.md", "function"):
            match = re.fullmatch(r"`(\w+)\((.*)\)`", cell)
            assert match, cell
            function = getattr(trtpipe, match[1])
            parameters = inspect.signature(function).parameters
            by_place, _, by_name = match[2].partition(", *, ")
            assert by_place.split(", ") == list(parameters)[: len(by_place.split(", "))], cell
            for name in filter(None, by_name.split(", ")):
                assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY, cell

    def test_every_function_is_in_the_table(self) -> None:
        told = {cell.strip("`").partition("(")[0] for cell, _ in table_headed("docs/python-api.md", "function")}
        assert told == {name for name in trtpipe.__all__ if inspect.isfunction(getattr(trtpipe, name))}

    def test_common_arguments_are_those_of_build(self) -> None:
        told = {
            name for cell, _ in table_headed("docs/python-api.md", "argument") for name in re.findall(r"`(\w+)`", cell)
        }
        assert told | {"out", "simplify", "allow_random"} == set(inspect.signature(trtpipe.build).parameters)

    def test_errors_have_the_exit_codes_told(self) -> None:
        told = {name.strip("`"): int(code) for name, _, code in table_headed("docs/python-api.md", "error")}
        raised = {
            name: error.exit_code
            for name, error in vars(trtpipe.errors).items()
            if isinstance(error, type) and issubclass(error, trtpipe.TrtpipeError) and error is not trtpipe.TrtpipeError
        }
        assert told == raised


class TestDevelopersPages:
    def test_the_packages_are_those_of_the_architecture_in_its_order(self) -> None:
        told = [cell.strip("`") for cell, _ in table_headed("docs/design.md", "package")]
        assert told == [layer for layer in LAYERS if not layer.startswith("__")]

    def test_what_contributing_says_is_where_it_says(self) -> None:
        for _, places in table_headed("CONTRIBUTING.md", "to find"):
            found = re.findall(r"`(trtpipe/[\w/]+\.py)`(?: \(`(\w+)`\))?", places)
            assert found, places
            for path, name in found:
                assert re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b", text_of(path), re.MULTILINE) or not name, (
                    path
                )

    @pytest.mark.parametrize("page", ["docs/design.md", "docs/extending.md"])
    def test_files_and_names_that_are_mentioned_exist(self, page: str) -> None:
        packages = "|".join(path.name for path in (ROOT / "trtpipe").iterdir() if path.is_dir())
        for path in re.findall(rf"`((?:tests|trtpipe|benchmarks|{packages})/[\w./]*)`", prose(text_of(page))):
            assert any(
                (folder / f"{path}{end}").exists() for folder in (ROOT, ROOT / "trtpipe") for end in ("", ".py")
            ), path


#: Words of this project's own, for which the field has terms; and figures of speech.
PRIVATE = re.compile(
    r"\b(harm\w*|rescue\w*|repairs?|mend\w*|nursery|switchboards?|desk|halves|luck\w*|nobody|somebody|everybody|"
    r"in vain|thrifty|tells?|told|leav\w+ high|left high|stays? high|in 8 bits|"
    r"stands? in|goes on|do(?:es)? not pay)\b"
)
#: Where ``halves`` are parts of a whole, ``repairs`` an old name, or those of a damaged file.
ALLOWED = {
    "docs/accuracy.md": {"halves"},
    "docs/calibration.md": {"halves"},
    "docs/design.md": {"repairs"},
    "docs/onnx.md": {"repairs"},
    "CHANGELOG.md": {"repair", "repairs"},
}


@pytest.mark.parametrize("path", [page for page in PAGES if "results" not in page.parts], ids=name_of)
def test_pages_use_the_terms_of_the_field(path: Path) -> None:
    found = set(PRIVATE.findall(prose(path.read_text(encoding="utf-8"))))
    assert found - ALLOWED.get(name_of(path), set()) == set()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_files_of_tests_and_benchmarks_that_are_mentioned_exist(path: Path) -> None:
    text = prose(path.read_text(encoding="utf-8"))
    for name in re.findall(r"\b((?:tests|benchmarks)/[\w/]+\.(?:py|c|json|md))\b", text):
        assert (ROOT / name).is_file(), name


def test_default_tolerances_are_those_of_the_profile() -> None:
    told = {}
    for names, stat, *least in table_headed("docs/concepts.md", "precision"):
        for name in names.split(", "):
            told[name] = (stat.replace("elementwise", "elemwise"), *(float(each.removesuffix(" dB")) for each in least))
    fields = ("stat", "atol", "rtol", "min_cosine", "min_snr_db", "min_agreement")
    assert told == {str(each): tuple(getattr(each.tolerance, name) for name in fields) for each in Precision}
