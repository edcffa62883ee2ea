"""What the site has beside the pages in docs/: a page of each package, records, examples.

Hooks of mkdocs, named in mkdocs.yml.
"""

import logging
import re
import subprocess
import sys
import tempfile
from html import unescape
from pathlib import Path
from typing import Any, TypeAlias

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
_LOG = logging.getLogger("mkdocs.hooks.site_pages")
_Found: TypeAlias = "griffe.Object | griffe.Alias"


def on_config(config: MkDocsConfig) -> None:
    """Completes the navigation: pages that it leaves out, and those of the packages."""
    nav: list[Any] = list(config.nav or ())
    named = set(re.findall(r"[\w-]+\.md", str(nav)))
    further = [path.name for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in named]
    if further:
        nav.append({"Further pages": further})
    config.nav = [*nav, {"API": [{name: f"api/{name}.md"} for name in _packages()]}]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages of the packages, and the records and examples that pages point to."""
    style = griffe.load_extensions(str(ROOT / "scripts" / "site_docstrings.py"))
    taut = griffe.load(
        "taut", search_paths=[ROOT / "src"], extensions=style, allow_inspection=False
    )
    assert isinstance(taut, griffe.Module)
    for name in _packages():
        page = _face(taut) if name == "taut" else _package(taut[name.removeprefix("taut.")])
        files.append(File.generated(config, f"api/{name}.md", content=page))
    files.append(File.generated(config, "mnist-small.html", content=_playground()))
    for path in (*(ROOT / "records").rglob("*.json"), *(ROOT / "examples").glob("*.py")):
        uri = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(path)))


def _playground() -> str:
    """The page that docs/playground.md links to."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "play.html")
        subprocess.run(
            [sys.executable, "-m", "taut", "play", "zoo:mnist-small", "--out", str(page)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return page.read_text(encoding="utf-8")


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """In the repository records and examples lie beside docs/, on the site within it."""
    return re.sub(r"\]\(\.\./(records|examples)/", r"](\1/", markdown)


def on_page_content(html: str, page: Page, **kwargs: Any) -> str:
    """Formulas become MathML, which browsers draw without a script or a font."""
    if left := re.search(r":(math|class|func|meth|mod):|\.\. math::", html):
        _LOG.warning("%s has a role that nobody rendered: %s", page.file.src_uri, left[0])
    html = _INLINE.sub(lambda m: convert(unescape(m[1])), html)
    return _DISPLAY.sub(lambda m: convert(unescape(m[1]), display="block"), html)


_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def _packages() -> list[str]:
    inner = sorted(path.parent.name for path in (ROOT / "src" / "taut").glob("*/__init__.py"))
    return ["taut", *(f"taut.{name}" for name in inner)]


def _face(taut: griffe.Module) -> str:
    """The names that `import taut` gives, each with its summary and its place."""
    rows = ["# taut", "", _text(taut), "", "| name | what it is |", "|---|---|"]
    for name in sorted(map(str, taut.exports or ()), key=str.lower):
        found = _exported(taut, name)
        place = f"({found.path}.md)" if found.is_module else f"[{found.canonical_path}]"
        rows.append(f"| [`taut.{name}`]{place} | {_text(found).splitlines()[0]} |")
    return "\n".join(rows) + "\n"


def _package(package: _Found) -> str:
    """Its docstring and what it exports; a package that exports nothing shows its modules."""
    lines = [f"# {package.path}", "", *_entry(package.path, "members: false")]
    modules = [
        name for name, member in package.members.items() if not member.is_alias and member.is_module
    ]
    for name in sorted(map(str, package.exports or modules), key=str.lower):
        found = _exported(package, name)
        if found.is_module:
            lines += [f"## {found.path}", "", *_entry(found.path, "heading_level: 3")]
        else:
            lines += _entry(found.path, "show_root_heading: true", "show_root_toc_entry: true")
    return "\n".join(lines) + "\n"


def _exported(package: _Found, name: str) -> _Found:
    """What `package.name` is when it runs: a function rather than the file of that name."""
    found = package[name]
    return found[name] if found.is_module and name in found.members else found


def _entry(path: str, *options: str) -> list[str]:
    return [f"::: {path}", "    options:", *(f"      {option}" for option in options), ""]


def _text(found: _Found) -> str:
    return found.docstring.value if found.docstring is not None else ""
