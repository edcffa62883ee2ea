"""How results are shown: numbers, and HTML for notebooks."""

import html
import math
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import SupportsFloat


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


def rounded_up(bound: SupportsFloat, digits: int = 9) -> str:
    """An upper bound in a number of significant digits, never below it.

    Example:
        >>> rounded_up(1.00000041, 7), rounded_up(152.7, 3), rounded_up(6.11e29, 2)
        ('1.000001', '153', '6.2e+29')
    """
    return _rounded(bound, digits, ROUND_CEILING)


def rounded_down(radius: SupportsFloat, digits: int = 6) -> str:
    """A lower bound in a number of significant digits, never above it.

    Example:
        >>> rounded_down(0.99999999), rounded_down(math.inf), rounded_down(0.5)
        ('0.999999', 'inf', '0.5')
    """
    return _rounded(radius, digits, ROUND_FLOOR)


def _rounded(value: SupportsFloat, digits: int, rounding: str) -> str:
    number = float(value)
    if not math.isfinite(number):
        return str(number)
    decimal = Context(prec=digits, rounding=rounding).create_decimal_from_float(number)
    shown = float(decimal)
    return f"{decimal:e}" if math.isinf(shown) else f"{shown:.{digits}g}"


def _row(tags: Sequence[str], cells: Sequence[object]) -> str:
    pairs = zip(tags, cells, strict=True)
    text = "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for tag, cell in pairs)
    return f"<tr>{text}</tr>"
