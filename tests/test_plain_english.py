"""Pages, docstrings, help texts and messages are in plain English: idioms with a plainer word."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SOURCES = sorted((ROOT / "src" / "taut").rglob("*.py"))
# What to look for, and what to write in its place.
IDIOMS = {
    r"(what )?comes? to the same": "is equivalent",
    r"has to be said": "must be stated",
    r"as it stands": "unchanged",
    r"spoken of": "described, mentioned",
    r"hangs? together": "are connected, are consistent",
    r"(that|which|what) (is|are) to be \w+ed": "must be ...",
    r"(the first|on|of|takes?|has|have|with) so many": "this many, a given number of",
    r"whenever the power goes": "crash-safe",
    r"with no right to": "uncertified",
    r"how both were to tell": "how to detect",
    r"wants? (for )?nothing": "needs nothing",
    r"(nothing|nowhere else|no other), mostly": "by default",
    r"(in|of) our own making": "our own",
    r"of one's own": "of your own",
    r"lest\b": "so that ... not",
    r"whosoever|whichsoever|wheresoever|heretofore|thereof|whereof": "a plain pronoun",
    r", for (it|they|there|this|that|these|we|else) (is|are|was|has|have|would)\b": "because",
    r"(?<=[.:;] )(Broken|Refused|Measured|Meant|Kept|Counted) (it|they) (is|are)\b": "It is ...",
}
# Everyday words for technical things, in pages for users only.
TECHNICAL = {
    r"torus|tori\b": "periodic domain",
    r"(?<!digital )twins?\b": "drop-in replacement, plain counterpart",
    r"raw tensors?": "parameter",
    r"sums? of moduli|\bmoduli\b": "absolute values",
    r"\b(re)?join(s|ed|ing)?\b": "merge, concatenate",
}


def prose(page: str) -> str:
    """A page without code, generated tables, formulas and the targets of links; lines stay."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    for pattern in (
        r"^```.*?^```",
        r"<!-- [\w-]+: .*?<!-- end -->",
        r"``.*?``",
        r"`[^`]*`",
        r"\$\$.*?\$\$",
        r"(?<=\])\([^)]*\)",
        r"https?://\S+",
        r'^#* ?".*"$',
    ):
        page = re.sub(pattern, blank, page, flags=re.DOTALL | re.MULTILINE)
    return page


def strings(source: str) -> list[tuple[int, str]]:
    """Docstrings, messages and help texts: every string that holds a space, with its line."""
    return [
        (node.lineno, re.sub(r":?`[^`]*`|>>>.*", "", node.value))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    ]


def findings(text: str, line: int, idioms: dict[str, str]) -> list[str]:
    """Each idiom with its line and what to write in its place."""
    return [
        f"{line + text[: match.start()].count(chr(10))}: {match[0]!r}: write {better!r}"
        for idiom, better in idioms.items()
        for match in re.finditer(rf"\b(?:{idiom})" if idiom[0] not in "(,\\" else idiom, flat(text))
    ]


def flat(text: str) -> str:
    """The text with line breaks as spaces of the same length, for idioms across lines."""
    return text.replace("\n", " ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_plain(page):
    assert findings(prose(page.read_text(encoding="utf-8")), 1, IDIOMS | TECHNICAL) == []


def test_docstrings_and_messages_are_plain():
    found = [
        f"{path.relative_to(ROOT)}:{finding}"
        for path in SOURCES
        for line, text in strings(path.read_text(encoding="utf-8"))
        for finding in findings(text, line, IDIOMS)
    ]
    assert found == []


def test_idioms_are_found_across_lines_and_not_in_code():
    text = "It is done, which comes to the\nsame. `the torus`\n```python\ntwin = 1\n```\nA twin."
    assert findings(prose(text), 1, IDIOMS | TECHNICAL) == [
        "1: 'comes to the same': write 'is equivalent'",
        "6: 'twin': write 'drop-in replacement, plain counterpart'",
    ]
