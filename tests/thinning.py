"""Long tables of cases, of which a part runs always and all with the slow tests."""

from collections.abc import Iterable

import pytest


def one_in(n: int, cases: Iterable) -> list:
    """The cases, all but each n-th of them marked as slow."""
    return [
        case if i % n == 0 else pytest.param(*case, marks=pytest.mark.slow)
        for i, case in enumerate(cases)
    ]
