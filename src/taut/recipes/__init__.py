"""Published tables and our own results as recipes: one JSON file each, with what it claims.

To add one, write a file here that is named as its recipe.
"""

from importlib.resources import files

from taut.training import Recipe

__all__ = ["RECIPES"]

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for file in sorted(files(__name__).iterdir(), key=lambda file: file.name.removesuffix(".json"))
    if file.name.endswith(".json")
    for recipe in [Recipe.from_json(file.read_text(encoding="utf-8"))]
}
