"""Long tables of cases, of which a part runs always and all with the slow tests."""

from collections.abc import Iterable

import pytest


def one_in(n: int, cases: Iterable) -> list:
    """The cases, all but each n-th of them marked as slow; a case is a tuple or a name."""
    listed = [(case,) if isinstance(case, str) else case for case in cases]
    return [
        pytest.param(*case, marks=[pytest.mark.slow] if i % n else [])
        for i, case in enumerate(listed)
    ]
