"""Results as HTML for notebooks."""

import html
from collections.abc import Iterable, Sequence


def html_table(rows: Iterable[Sequence[object]], names: Sequence[str] = ()) -> str:
    """A plain table, everything escaped; without names of columns each row begins with its name.

    Example:
        >>> html_table([("a", "<b>")])
        '<table><tr><th>a</th><td>&lt;b&gt;</td></tr></table>'
    """
    lines = [_row(["th"] * len(names), names)] if names else []
    for row in rows:
        lines.append(_row(["td" if names else "th", *["td"] * (len(row) - 1)], row))
    return f"<table>{''.join(lines)}</table>"


def _row(tags: Sequence[str], cells: Sequence[object]) -> str:
    pairs = zip(tags, cells, strict=True)
    text = "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for tag, cell in pairs)
    return f"<tr>{text}</tr>"
