"""The documentation says what is so: its code runs, its tables are those of the records."""

import re
from pathlib import Path

import pytest

from taut.training import Recipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "docs"}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(compile(block, page.name, "exec"), namespace)
    if page.name == "README.md":
        accuracy = float(capsys.readouterr().out.split("\n")[-2].split()[0])
        assert accuracy > 0.8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_in_json_are_recipes(page):
    for block in re.findall(r"```json\n(.*?)```", page.read_text(), flags=re.DOTALL):
        Recipe.from_json(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_tables_are_those_of_the_records(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.tables import PAGES, updated

    for page in PAGES:
        assert updated(page) == page.read_text(), page.name


def test_readme_is_short_and_names_real_targets():
    text, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    assert len(text.splitlines()) < 120
    for target in re.findall(r"^make (\w+)", text, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile
