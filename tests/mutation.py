"""Alter one piece of the source of one function, wherever the package has it."""

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from types import ModuleType

import pytest

from taut.linalg import twiddles

Mutant = tuple[ModuleType, str, str, str]
"""Module, qualified name of a function, what stands in it once, what replaces it."""


def mutate(patch: pytest.MonkeyPatch, module: ModuleType, name: str, old: str, new: str) -> None:
    """Replace one function, wherever the package has imported it, by one with other source."""
    owner: object = module
    *outer, last = name.split(".")
    for part in outer:
        owner = vars(owner)[part]
    original = vars(owner)[last]
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(original)))
    assert source.count(old) == 1, f"{name} has {source.count(old)} of {old!r}"
    made: dict[str, object] = {}
    exec(compile(source.replace(old, new), f"<mutant of {name}>", "exec"), vars(module), made)
    patch.setattr(owner, last, made[last])
    for loaded in [m for n, m in sys.modules.items() if n.startswith("taut.")]:
        if vars(loaded).get(last) is original:
            patch.setattr(loaded, last, made[last])


def survives(checks: Iterable[Callable[[], None]]) -> bool:
    """Whether all checks pass."""
    twiddles._table.cache_clear()
    twiddles._pi.cache_clear()
    try:
        for check in checks:
            check()
    except (Exception, pytest.fail.Exception):
        return False
    finally:
        twiddles._table.cache_clear()
        twiddles._pi.cache_clear()
    return True


def name_of(part: object) -> str:
    """How a check, or a mutant, is called among the parameters of a test."""
    if callable(part):
        return getattr(part, "__name__", "") or part.args[0]
    _, name, old, new = part
    return f"{name}: {old} -> {new}"
