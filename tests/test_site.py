"""The site: its reference has every public name, its notebooks the code of their pages."""

import ast
import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import pytest

import taut

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
TUTORIALS = [
    page
    for page in PAGES
    if page.name.startswith("tutorial-") or page.stem in ("adding-a-method", "scale")
]


@pytest.fixture(scope="module")
def site():
    """The module that makes the reference; it needs the tools of the site."""
    pytest.importorskip("griffe")
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        yield importlib.import_module("site_reference")
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def notebooks():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        yield importlib.import_module("site_notebooks")
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def test_every_public_name_is_on_a_page(site):
    package = site.load()
    groups = site.groups(package)
    shown = "\n".join(site.page(group) for group in groups)
    index = site.index(package, groups)
    for file in (ROOT / "src" / "taut").glob("*/__init__.py"):
        name = file.parent.name
        for exported in getattr(importlib.import_module(f"taut.{name}"), "__all__", ()):
            assert f"::: taut.{name}.{exported}\n" in shown, (name, exported)
            assert f"`taut.{name}.{exported}`" in index, (name, exported)
    for exported in taut.__all__:
        if not inspect.ismodule(getattr(taut, exported)):
            assert f"`taut.{exported}`" in index, exported


def test_every_link_of_the_index_leads_to_an_entry(site):
    package = site.load()
    groups = site.groups(package)
    entries = {entry.canonical_path for group in groups for entry in group.entries}
    links = re.findall(r"\]\[([\w.]+)\]", site.index(package, groups))
    assert len(links) > 200
    assert set(links) <= entries


def test_no_page_of_layers_is_empty(site):
    assert all(group.entries for group in site.groups(site.load()) if group.package.name == "nn")


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_notebook_has_the_code_of_its_page(page, notebooks):
    text = page.read_text()
    content = json.loads(notebooks.notebook(text))
    cells = ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert cells == [block.strip() for block in blocks]
    for cell in cells:
        ast.parse(cell)
    prose = "".join("".join(c["source"]) for c in content["cells"] if c["cell_type"] != "code")
    assert not re.search(r"\]\((?!https?:)|<!--", prose), "only the site has these links"
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorial_says_what_it_gives_and_what_not(page):
    text = page.read_text()
    for needed in ("**At the end**", "**Time:**", "## What is not promised", "**Next:**"):
        assert needed in text, needed
    if page.stem != "scale":  # its picture is of a record
        assert f"figures/{page.stem}.png" in text
        assert f'savefig("{page.stem}.png"' in text, "the picture is that of the code"


def test_figures_are_shown():
    text = "".join(page.read_text() for page in (*PAGES, ROOT / "README.md"))
    for figure in (ROOT / "docs" / "figures").iterdir():
        assert f"figures/{figure.name}" in text, figure.name
