"""Pages from templates."""

import os
from collections.abc import Callable
from pathlib import Path

from taut._display import rounded_down, rounded_up
from taut.files import write_atomically

_FILTERS: dict[str, Callable[[float], str]] = {
    "bound": lambda value: rounded_up(value, 8),
    "norm": lambda value: f"{value:.3f}" if value == 0 or value >= 1e-3 else f"{value:.1e}",
    "percent": lambda share: f"{100 * share:.1f}",
    "at_least": lambda value: rounded_down(value, 4),
    "at_most": lambda value: rounded_up(value, 4),
    "short": lambda value: f"{value:.4g}",
    "sigma": lambda value: f"{value:.7f}",
    "thousands": lambda number: f"{number:,}",
}


def write_page(
    path: str | os.PathLike[str], template: str, *, package: str = "taut.report", **values: object
) -> Path:
    """Fill a template of a package, escaping the values; write the page atomically.

    Templates extend `base.html` of taut.report, which has the colours and the type of all pages.

    Args:
        path: the HTML file.
        template: its name in the folder `templates` of the package.
        package: the package.
        values: what the template shows.

    Returns:
        The path.

    Example:
        >>> write_page("page.html", "play.html", package="taut.playground")  # doctest: +SKIP
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("taut.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    write_atomically(Path(path), environment.get_template(template).render(values).encode())
    return Path(path)
