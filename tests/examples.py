# SPDX-License-Identifier: MIT
"""Programs as the documents show them."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def example(title: str, document: str = "embedding.md") -> str:
    """The first program below this heading."""
    _, _, text = (DOCS / document).read_text().partition(f"# {title}\n")
    found = re.search(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"no program below {title!r}"
    return found[1]
