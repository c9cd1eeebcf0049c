"""What all pictures have in common."""

from __future__ import annotations


def literal(text: str) -> str:
    """``text`` as matplotlib draws it letter by letter: a pair of ``$`` would make a formula of what is between them."""
    return text.replace("$", r"\$")
