"""Docstrings of the house as the documentation site understands them.

Formulas and references are written as Sphinx knows them; "Guarantee", "Cost" and the like are
paragraphs, each after its own word.
"""

import re
from typing import Any

import griffe

# What the Google style has no section for.
_PARAGRAPHS = ("Guarantee", "Cost", "Reference", "Proof", "Gradient", "Linear", "Loose")


class Docstrings(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = converted(obj.docstring.value)


def converted(text: str) -> str:
    """A docstring in Google style and Markdown, with formulas between brackets for arithmatex."""
    text = _ROLE.sub(r"`\1`", text)
    text = _INLINE.sub(lambda m: rf"\({' '.join(m[1].split())}\)", text)
    text = _DISPLAY.sub(lambda m: f"\n\\[{' '.join(m[1].split())}\\]\n", text)
    text = _SESSION.sub(lambda m: f"```python\n{m[0].rstrip()}\n```\n", text)
    text = re.sub(r"^Example:", "Examples:", text, flags=re.MULTILINE)
    return _PARAGRAPH.sub(_paragraph, text)


_ROLE = re.compile(r":(?:class|func|meth|mod):`~?([^`]+)`")
_INLINE = re.compile(r":math:`([^`]+)`")
_DISPLAY = re.compile(r"^ *\.\. math:: *(.*(?:\n[^\n]*\S[^\n]*)*)", re.MULTILINE)
_SESSION = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)  # outside of a section
_PARAGRAPH = re.compile(rf"^({'|'.join(_PARAGRAPHS)}):[ \n]*(.*(?:\n(?: +\S.*)?)*)", re.MULTILINE)


def _paragraph(match: re.Match[str]) -> str:
    lines = (line.strip() for line in match[2].rstrip().split("\n"))
    return f"**{match[1]}.** " + "\n".join(lines) + "\n\n"
