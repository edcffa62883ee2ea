"""The reference of the site: a page for each group of names, and an index with their summaries.

Everything follows from what the packages export; a new name appears by itself.
"""

from pathlib import Path
from typing import NamedTuple, TypeAlias

import griffe

ROOT = Path(__file__).resolve().parent.parent
Found: TypeAlias = "griffe.Object | griffe.Alias"

# taut.nn is large: its pages are by module, as in torch. Other modules are on the last page.
_LAYERS = {
    "Convolutions": ("_conv", "_conv_transpose", "_circular"),
    "Spectral, skew and shift convolutions": ("_spectral_conv", "series", "_shift", "_shift_mix"),
    "Linear layers": ("_linear", "_unit_row_linear"),
    "Monotone nets": ("_monotone",),
    "Activations": ("activations",),
    "Pooling": ("pooling",),
    "Residual layers": ("residual",),
    "Centring and normalisation": ("_centring",),
    "Padding and resampling": ("_padding", "_isometric_pad", "_resampling", "_first_channels"),
}
_REST = "Building blocks of layers"
# Pages of whole packages with a title other than their name, in this order; others follow.
_TITLES = {
    "parametrizations": "Methods (parametrizations)",
    "losses": "Losses",
    "models": "Models",
    "data": "Data",
    "program": "Bounds and programs",
    "certification": "Certification",
    "threats": "Threats",
    "conformal": "Conformal prediction",
    "attacks": "Attacks",
    "sdf": "Distance fields",
    "export": "Export and conversion",
    "wasserstein": "Wasserstein distances",
    "anomaly": "Anomaly detection",
    "training": "Training",
    "optim": "Optimisers",
    "private": "Private training",
    "diagnostics": "Diagnostics",
    "plot": "Figures",
    "theory": "Theory",
    "inverse": "Inverse problems",
}


class Group(NamedTuple):
    """A page of the reference."""

    title: str
    uri: str
    package: Found
    entries: tuple[Found, ...]


def load() -> griffe.Module:
    """taut, read from its source, with the docstrings as the site shows them."""
    style = griffe.load_extensions(str(ROOT / "scripts" / "site_docstrings.py"))
    taut = griffe.load(
        "taut", search_paths=[ROOT / "src"], extensions=style, allow_inspection=False
    )
    assert isinstance(taut, griffe.Module)
    return taut


def groups(taut: griffe.Module) -> list[Group]:
    """All pages but the index."""
    found = _layer_groups(taut["nn"])
    names = {path.parent.name for path in (ROOT / "src" / "taut").glob("*/__init__.py")}
    for name in sorted(names - {"nn"}, key=lambda name: ([*_TITLES, name].index(name), name)):
        title = _TITLES.get(name, name.capitalize())
        found.append(Group(title, f"api/{name}.md", taut[name], tuple(_entries(taut[name]))))
    shown = {entry.canonical_path for group in found for entry in group.entries}
    alone = [entry for entry in _face(taut) if entry.canonical_path not in shown]
    return [*found, Group("Names of taut alone", "api/taut.md", taut, tuple(alone))]


def page(group: Group) -> str:
    """The summaries of a group, then each of its names."""
    lines = [f"# {group.title}", "", f"`{group.package.path}`", ""]
    if group.package.name not in ("nn", "taut"):
        lines += [_text(group.package), ""]
    lines += [*_table(group.entries), ""]
    for entry in group.entries:
        lines += _shown(entry)
    return "\n".join(lines) + "\n"


def index(taut: griffe.Module, pages: list[Group]) -> str:
    """The names that `import taut` gives, and those of each page."""
    lines = ["## taut", "", _text(taut), "", *_table(_face(taut), "taut")]
    for group in pages:
        lines += ["", f"## [{group.title}]({group.uri})", "", *_table(group.entries, uri=group.uri)]
    return "\n".join(lines) + "\n"


def _face(taut: griffe.Module) -> list[Found]:
    """What `import taut` gives, without its packages."""
    return [entry for entry in _entries(taut) if not entry.is_module]


def _layer_groups(nn: Found) -> list[Group]:
    homes = {module: title for title, modules in _LAYERS.items() for module in modules}
    members: dict[str, list[Found]] = {title: [] for title in (*_LAYERS, _REST)}
    for entry in _entries(nn):
        module = entry.canonical_path.split(".")[2]
        members[homes.get(module, _REST)].append(entry)
    return [
        Group(title, f"api/nn-{title.split()[0].lower().strip(',')}.md", nn, tuple(entries))
        for title, entries in members.items()
    ]


def _names(package: Found) -> list[str]:
    modules = [
        name for name, member in package.members.items() if not member.is_alias and member.is_module
    ]
    return sorted(map(str, package.exports or modules), key=str.lower)


def _entries(package: Found) -> list[Found]:
    return [_exported(package, name) for name in _names(package)]


def _exported(package: Found, name: str) -> Found:
    """What `package.name` is when it runs: a function rather than the file of that name."""
    found = package[name]
    return found[name] if found.is_module and name in found.members else found


def _table(
    entries: "list[Found] | tuple[Found, ...]", package: str = "", uri: str = ""
) -> list[str]:
    """Names with links; those of modules go to their headings, which have no cross-reference."""
    rows = ["| name | what it is |", "|---|---|"]
    for entry in entries:
        name = f"{package}.{entry.name}" if package else entry.path
        summary = next(iter(_text(entry).splitlines()), "").replace("|", "\\|")
        target = f"({uri}#{entry.path})" if entry.is_module else f"[{entry.canonical_path}]"
        rows.append(f"| [`{name}`]{target} | {summary} |")
    return rows


def _shown(entry: Found) -> list[str]:
    if entry.is_module:
        heading = f"## {entry.path} {{#{entry.path}}}"
        return [heading, "", *_option_lines(entry.path, "heading_level: 3")]
    return _option_lines(entry.path, "show_root_heading: true", "show_root_toc_entry: true")


def _option_lines(path: str, *options: str) -> list[str]:
    return [f"::: {path}", "    options:", *(f"      {option}" for option in options), ""]


def _text(found: Found) -> str:
    return found.docstring.value if found.docstring is not None else ""
