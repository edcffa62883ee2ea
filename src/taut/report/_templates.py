"""Pages from templates."""

import os
from collections.abc import Callable
from pathlib import Path

from taut.files import write_atomically

_FILTERS: dict[str, Callable[[float], str]] = {
    "norm": lambda value: f"{value:.3f}" if value == 0 or value >= 1e-3 else f"{value:.1e}",
    "percent": lambda share: f"{100 * share:.1f}",
    "short": lambda value: f"{value:.4g}",
    "sigma": lambda value: f"{value:.7f}",
    "thousands": lambda number: f"{number:,}",
}


def write_page(path: str | os.PathLike[str], template: str, **values: object) -> Path:
    """Fill a template, escaping the values, and write the page atomically; return the path."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("taut.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    write_atomically(Path(path), environment.get_template(template).render(values).encode())
    return Path(path)
