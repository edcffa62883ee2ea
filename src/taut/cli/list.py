"""`taut list`."""

from taut.data import names
from taut.parametrizations import methods
from taut.recipes import RECIPES
from taut.training import Recipe


def list_all() -> None:
    """List recipes, data sets and parametrizations with their guarantee and paper.

    Example: taut list
    """
    _print("Recipes (taut train NAME)", [_recipe_row(recipe) for recipe in RECIPES.values()])
    _print("Data sets", [(name,) for name in names()])
    rows = [(name, cls.guarantee, cls.reference) for name, cls in methods().items()]
    _print("Parametrizations: name, guarantee, paper", rows)


def _recipe_row(recipe: Recipe) -> tuple[str, ...]:
    model = f"{recipe.model.parametrization} {recipe.model.architecture}"
    return recipe.name, recipe.dataset, model, recipe.loss.kind, f"{recipe.epochs} epochs"


def _print(title: str, rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(title)
    for row in rows:
        cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)]
        print("  " + "  ".join(cells).rstrip())
    print()
