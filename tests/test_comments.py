# SPDX-License-Identifier: MIT
"""Comments that the house rules ask for."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = [
    path
    for folder in ("bench", "fuzz", "tests", "wgpy")
    for path in sorted((ROOT / folder).rglob("*.*"))
    if path.suffix in {".py", ".c", ".h"} and path.stem not in ("_core", "_relay")
]
C = [path for path in CODE if path.suffix != ".py"]
FOLDERS = (".ci", "bin", "scripts", "systemd")  # of nothing but source
LICENSED = [*CODE, *(path for name in FOLDERS for path in sorted((ROOT / name).iterdir()))]
SPDX = re.compile(r"^(?:#|/\*) SPDX-License-Identifier: MIT(?: \*/)?$", re.M)
SPDX_WITHIN = 2  # lines, of which the first may be what the kernel or a shell looks for

RULE = re.compile(r"^ *(?:#|/\*) ?-{3,}.*", re.M)
TITLE = re.compile(r" *(?:# ---- \S.* ----|/\* ---- \S.* ---- \*/)")
TITLE_MAX = 60  # columns

BODY = re.compile(
    r"^(?:typedef |static const )?(?:struct|union)(?: \w+)? \{ *@?\n(.*?)^\}", re.M | re.S
)
FIELD = re.compile(r"(?P<above>^ *@\n)?(?P<field>[^;@{}]+);(?P<beside> *@)?", re.M)


def bare_fields(code: str) -> list[str]:
    """Those with a comment neither behind them nor on the line above."""
    marked = re.sub(r"/\*.*?\*/", "@", code, flags=re.S)
    return [
        " ".join(field["field"].split())
        for body in BODY.findall(marked)
        for field in FIELD.finditer(body)
        if not (field["above"] or field["beside"])
    ]


def test_a_field_without_a_comment_is_found() -> None:
    code = (
        "struct a { /* b */\n int c;\n /* d */\n int e;\n struct {\n  int f; /* g */\n } h;\n};\n"
    )
    assert bare_fields(code) == ["int c", "h"]


@pytest.mark.parametrize("path", C, ids=lambda path: path.name)
def test_every_field_of_a_struct_has_a_comment(path: Path) -> None:
    assert bare_fields(path.read_text()) == []


def test_a_rule_is_a_bare_title_in_one_short_line() -> None:
    rules = [rule for path in CODE for rule in RULE.findall(path.read_text())]
    assert rules, "there are some"
    assert [r for r in rules if not TITLE.fullmatch(r) or len(r) > TITLE_MAX] == []


def test_every_file_of_the_source_says_its_licence() -> None:
    heads = {path: "\n".join(path.read_text().splitlines()[:SPDX_WITHIN]) for path in LICENSED}
    assert [path for path, head in heads.items() if not SPDX.search(head)] == []
