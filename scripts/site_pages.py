"""What the site has beside the pages in docs/: reference, notebooks, records, examples, project.

Hooks of mkdocs, named in mkdocs.yml.
"""

import logging
import re
import subprocess
import sys
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))  # mkdocs loads this file by its path

import site_notebooks  # noqa: E402
import site_reference  # noqa: E402

_LOG = logging.getLogger("mkdocs.hooks.site_pages")
_TAUT = site_reference.load()
_GROUPS = site_reference.groups(_TAUT)
# Sections of the navigation that the hook completes.
_FURTHER, _REFERENCE, _PROJECT = "How-to", "Reference", "Project"


def on_config(config: MkDocsConfig) -> None:
    """Completes the navigation: pages that it leaves out, the reference, the project's pages."""
    nav: list[Any] = list(config.nav or ())
    named = set(re.findall(r"[\w-]+\.md", str(nav)))
    sections = {title: pages for entry in nav for title, pages in entry.items()}
    sections[_FURTHER] += [
        path.name for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in named
    ]
    sections[_REFERENCE] += [{group.title: group.uri} for group in _GROUPS]
    sections[_PROJECT] += [{"Contributing": "contributing.md"}, {"Changelog": "changelog.md"}]
    config.nav = nav


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds what is generated, and the records and examples that pages point to."""
    pages = {group.uri: site_reference.page(group) for group in _GROUPS}
    for name in ("CONTRIBUTING", "CHANGELOG"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        pages[f"{name.lower()}.md"] = re.sub(
            r"\]\((?:docs/|(CHANGELOG|CONTRIBUTING)\.md)",
            lambda m: "](" + (f"{m[1].lower()}.md" if m[1] else ""),
            text,
        )
    pages |= {
        _notebook(page): site_notebooks.notebook(page.read_text(encoding="utf-8"))
        for page in tutorials()
    }
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
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


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """Links as they are on the site; tutorials offer their notebook."""
    source = ROOT / "docs" / page.file.src_uri
    if source in tutorials():
        button = f"[Download as a notebook]({_notebook(source)}){{ .md-button .notebook }}"
        markdown = re.sub(r"(^# .*\n)", rf"\1\n{button}\n", markdown, count=1)
    if "<!-- reference: scripts/site_reference.py -->" in markdown:
        names = site_reference.index(_TAUT, _GROUPS)
        markdown = markdown.replace("<!-- reference: scripts/site_reference.py -->", names)
    # In the repository records and examples lie beside docs/, on the site within it.
    return re.sub(r"\]\(\.\./(records|examples)/", r"](\1/", markdown)


def on_page_content(html: str, page: Page, **kwargs: Any) -> str:
    """Formulas become MathML, which browsers draw without a script or a font."""
    if left := re.search(r":(math|class|func|meth|mod):|\.\. math::", html):
        _LOG.warning("%s has a role that nobody rendered: %s", page.file.src_uri, left[0])
    html = _INLINE.sub(lambda m: convert(unescape(m[1])), html)
    return _DISPLAY.sub(lambda m: _FORMULA.format(convert(unescape(m[1]), display="block")), html)


def tutorials() -> list[Path]:
    """Pages that are notebooks, too: those of the section Tutorials that have code."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    section = re.search(r"- Tutorials:\n((?: {6}.*\n)+)", text)
    assert section, "mkdocs.yml has no section of tutorials"
    pages = [ROOT / "docs" / name for name in re.findall(r"([\w-]+\.md)", section[1])]
    return [page for page in pages if site_notebooks.has_code(page.read_text(encoding="utf-8"))]


_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_FORMULA = '<div class="formula">{}</div>'  # scrolls where it is wider than the page
_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def _notebook(page: Path) -> str:
    return f"notebooks/{page.stem}.ipynb"
