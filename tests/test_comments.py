"""Comments that the house rules ask for."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted(p for p in (ROOT / "wgpy/dataplane").glob("*.[ch]") if p.stem != "_core")

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


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_every_field_of_a_struct_has_a_comment(path: Path) -> None:
    assert bare_fields(path.read_text()) == []
