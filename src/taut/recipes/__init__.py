"""Published settings and our own results as recipes: one JSON file each, with what it claims.

To add one, write a file here that is named as its recipe.
"""

import json
from importlib.resources import files

from taut.training import Recipe

__all__ = ["CLAIMS", "RECIPES"]

_TEXTS: dict[str, str] = {
    file.name.removesuffix(".json"): file.read_text(encoding="utf-8")
    for file in sorted(files(__name__).iterdir(), key=lambda file: file.name.removesuffix(".json"))
    if file.name.endswith(".json")
}

RECIPES: dict[str, Recipe] = {name: Recipe.from_json(text) for name, text in _TEXTS.items()}
CLAIMS: dict[str, str] = {name: json.loads(text)["claim"] for name, text in _TEXTS.items()}
"""What each recipe says of itself: where its settings are from, and what was run."""
