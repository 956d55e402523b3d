# SPDX-License-Identifier: MIT
"""What documents name is there: links, files, functions, log lines, variables, the version."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = ROOT / "README.md"
CODE_BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")
HISTORY = ROOT / "CHANGELOG.md"  # names what was there then
DIRECTORIES = (
    *("bench", "bin", "completions", "docs", "fuzz", "man", "scripts", "systemd", "tests", "wgpy"),
)
# Files of the source: by their whole place in it, or by the end of that.
WHOLE = re.compile(rf"(?:{'|'.join(DIRECTORIES)})/[\w.@/-]*\w|[A-Z]+\.md|LICENSE")
END = re.compile(r"[\w@][\w.@/-]*\.(?:py|c|h|service)")
# `wgpy/peer.py`: `function`, `function`
PLACE = re.compile(r"`([\w/.]+\.(?:py|c|h))`: ((?:`\w+`(?:, )?)+)")
OF_OTHERS = ("wg-quick@.service", "wgpy@wg0.service", "wg-quick@wg0.service")
COMMANDS = ("ip", "ss", "wgpy", "tcpdump")


def text_of(page: Path) -> str:
    """Without blocks of commands and of other programs' files."""
    return CODE_BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def names(page: Path) -> set[str]:
    """Words that may be those of files: of spans and blocks of code."""
    text = page.read_text()
    code = [*SPAN.findall(text_of(page)), *CODE_BLOCK.findall(text)]
    return {word.rstrip(",;:") for part in code for word in part.split()}


def targets(page: Path) -> Iterator[str]:
    yield from (link for link in LINK.findall(text_of(page)) if "://" not in link)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def missing_pieces(said: str, code: str) -> list[str]:
    """What of a line of the log, with `...` for what varies, no program says."""
    pieces = [piece.strip() for piece in re.split(r"\.\.\.|: ", said)]
    return [piece for piece in pieces if piece not in code]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in targets(page):
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=name_of)
def test_every_file_of_the_source_that_is_named_exists(page: Path) -> None:
    files = [f"/{name_of(file)}" for where in DIRECTORIES for file in (ROOT / where).rglob("*")]
    for name in names(page):
        if WHOLE.fullmatch(name):
            assert (ROOT / name).exists(), name
        elif END.fullmatch(name) and name not in OF_OTHERS:
            assert any(file.endswith(f"/{name}") for file in files), name


def test_the_readme_needs_nothing_beside_it() -> None:
    assert list(targets(README)) == []
    assert "<img" not in README.read_text()


def test_functions_are_where_the_architecture_says() -> None:
    places = PLACE.findall((ROOT / "ARCHITECTURE.md").read_text())
    assert places
    for name, functions in places:
        there = (ROOT / name).read_text()
        for function in SPAN.findall(functions):
            assert re.search(rf"\b{function}\b", there), f"{name}: {function}"


def test_lines_of_the_log_that_troubleshooting_explains_are_logged() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "wgpy").rglob("*.py"))
    code += "\n".join(os.strerror(number) for number in errno.errorcode)
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
    spans = [span for row in rows for span in SPAN.findall(row)]
    lines = [span for span in spans if " " in span and span.split()[0] not in COMMANDS]
    assert len(lines) > 20
    for line in lines:
        general = line.replace("wg0", "{name}")
        assert missing_pieces(general, code) == [], line


def test_the_page_on_operation_has_every_variable() -> None:
    manual = (ROOT / "man/wgpy.8").read_text().partition(".Sh ENVIRONMENT")[2].partition(".Sh ")[0]
    page = (ROOT / "docs/operation.md").read_text()
    table = page.partition("## Environment")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = {name for row in rows for name in SPAN.findall(row)}
    assert named == set(re.findall(r"^\.It Ev (\w+)", manual, re.MULTILINE))


def test_the_version_is_the_newest_release_of_the_changelog() -> None:
    headings = re.findall(r"^## (.+)$", HISTORY.read_text(), re.MULTILINE)
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(version)} - \d{{4}}-\d\d-\d\d", headings[1])
