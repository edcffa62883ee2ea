"""How results are shown: numbers, and HTML for notebooks."""

import html
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, Context


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


def rounded_up(bound: float, digits: int) -> str:
    """An upper bound in a number of significant digits, never below it.

    Example:
        >>> rounded_up(1.00000041, 7), rounded_up(152.7, 3), rounded_up(6.11e29, 2)
        ('1.000001', '153', '6.2e+29')
    """
    context = Context(prec=digits, rounding=ROUND_CEILING)
    return f"{context.create_decimal_from_float(bound):.{digits}g}"


def _row(tags: Sequence[str], cells: Sequence[object]) -> str:
    pairs = zip(tags, cells, strict=True)
    text = "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for tag, cell in pairs)
    return f"<tr>{text}</tr>"
