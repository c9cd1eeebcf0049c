"""The Python that documents show, so that tests can run it."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def python_blocks(page: str, heading: str | None = None) -> list[str]:
    """The ```python blocks of ``page`` (a path from the root of the repository) in order, or those below one heading."""
    text = (ROOT / page).read_text()
    if heading is not None:
        level = heading.split(" ")[0]
        found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.MULTILINE | re.DOTALL)
        if found is None:
            raise ValueError(f"{page} has no heading {heading!r}.")
        text = found.group(1)
    return [textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)]
