"""The templates of the pages."""

from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template


def source(name: str) -> str:
    """The text of a template.

    Example:
        >>> source("page.html")[:15]
        '<!doctype html>'
    """
    return files("taut.report").joinpath(name).read_text(encoding="utf-8")


def template(name: str, **filters: Callable[[float], str]) -> "Template":
    """A template that escapes what it is filled with, and fails for a name that is not given.

    Args:
        name: of a file of this package.
        **filters: how numbers are written, by the word that the template has for it.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(filters)
    return environment.from_string(source(name))
