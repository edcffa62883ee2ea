"""`taut list`."""

from collections.abc import Iterable
from typing import Any

from taut.data import names
from taut.kinds import Choice
from taut.recipes import RECIPES
from taut.training import CHOICES, Recipe


def list_() -> None:
    """List recipes, data sets, models, losses, schedules and parametrizations.

    Example: taut list
    """
    title = "Recipes (taut train NAME; where one is from: taut train NAME --help)"
    _print(title, map(_recipe_row, RECIPES.values()))
    _print("Data sets (--dataset)", ((name,) for name in names()))
    for name, choice in CHOICES.items():
        if name != "parametrization":
            rows = [
                (kind, (cls.__doc__ or "").partition("\n")[0]) for kind, cls in choice.known.items()
            ]
            _print(f"{name.capitalize()} (--{name})", rows)
        if choice.named:
            _print(f"{name.capitalize()} of a published or small size (--{name})", _sizes(choice))
    methods = CHOICES["parametrization"].known.items()
    rows = [(name, cls.guarantee, cls.reference) for name, cls in methods]
    _print("Parametrization (--parametrization), its guarantee and paper", rows)


def _sizes(choice: Choice[Any]) -> list[tuple[str, ...]]:
    """Named instances, those of a class in one row."""
    names: dict[str, list[str]] = {}
    for name, instance in choice.named.items():
        names.setdefault(choice.kind_of(type(instance)), []).append(name)
    return [(kind, ", ".join(sizes)) for kind, sizes in names.items()]


def _recipe_row(recipe: Recipe) -> tuple[str, ...]:
    return recipe.name, recipe.dataset, recipe.loss.kind, f"{recipe.epochs} epochs"


def _print(title: str, rows: Iterable[tuple[str, ...]]) -> None:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(title)
    for row in rows:
        cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)]
        print("  " + "  ".join(cells).rstrip())
    print()
