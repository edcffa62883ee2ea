"""The documentation says what is so: its code runs, its tables are those of the records."""

import builtins
import functools
import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import tyro

from experiments import NAMES, tables
from experiments.command_line import RECORD, called, session
from taut.cli import main
from taut.cli.app import COMMANDS
from taut.parametrizations import methods
from taut.training import Recipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
pytestmark = pytest.mark.defaults
LANGUAGES = {"python", "json", "sh", "text"}  # the last is what a program prints


class Parsed(Exception):
    """Raised in place of what a command does."""


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def parse_only(function, **options):
    """Parses as `tyro.cli` does, and calls nothing."""
    if inspect.isfunction(function):
        function = functools.wraps(function)(lambda *args, **kwargs: None)
    real_cli(function, **options)
    raise Parsed


real_cli = tyro.cli


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page, monkeypatch):
    monkeypatch.setattr(tyro, "cli", parse_only)
    for line in "".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "-m"] and words[2].startswith("experiments."):
            importlib.import_module(words[2]).EXPERIMENT.parser().parse_args(words[3:])
        elif "taut" in words:  # torchrun and srun come before it
            with pytest.raises(Parsed):
                main(words[words.index("taut") + 1 :])
        elif words[:1] == ["make"]:
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_commands_and_modules_exist(page):
    text = page.read_text()
    for name in re.findall(r"`taut ([a-z]+)", text):
        assert name in COMMANDS
    for module in re.findall(r"python -m ([\w.]+)", text):
        paths = [root.joinpath(*module.split(".")) for root in (ROOT, ROOT / "src")]
        names = [name for path in paths for name in (f"{path}.py", path / "__main__.py")]
        assert any(Path(name).exists() for name in names), module
        assert not module.startswith("experiments.") or module.split(".")[1] in NAMES
    for script in re.findall(r"python (\S+\.py)", text):
        assert (ROOT / script).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_is_left_out(page):
    opened = re.findall(r"^```(.*)$", page.read_text(), flags=re.MULTILINE)[::2]
    assert set(opened) <= LANGUAGES, "each block is of a language that a test here looks at"


def test_every_method_is_described():
    table = (ROOT / "docs" / "methods.md").read_text()
    assert [name for name in methods() if f"| `{name}` |" not in table] == []


def test_navigation_names_pages():
    text = (ROOT / "mkdocs.yml").read_text()
    pages = re.findall(r": ([\w-]+\.md)$", text, flags=re.MULTILINE)
    assert pages
    assert all((ROOT / "docs" / page).exists() for page in pages)
    assert len(pages) == len(set(pages))


def modules_imported(monkeypatch) -> set[str]:
    """A set that is filled with the packages that taut, or a block of a page, imports."""
    imported: set[str] = set()
    statement, function = builtins.__import__, importlib.import_module

    def note(name, importer):
        if importer.partition(".")[0] in ("taut", "docs"):
            imported.add(name.partition(".")[0])

    def import_statement(name, module=None, *rest, **options):
        note(name, (module or {}).get("__name__", ""))
        return statement(name, module, *rest, **options)

    def import_module(name, package=None):
        note(name, sys._getframe(1).f_globals["__name__"])
        return function(name, package)

    monkeypatch.setattr(builtins, "__import__", import_statement)
    monkeypatch.setattr(importlib, "import_module", import_module)
    return imported


@functools.cache
def extras_with(module: str) -> set[str]:
    """The extras of taut that install a module; none for what comes with taut."""
    distributions = {name.lower() for name in packages_distributions().get(module, ())}
    lines = [
        line for line in requires("taut") or () if re.split(r"\W", line)[0].lower() in distributions
    ]
    extras = [re.search(r"extra == .(\w+)", line) for line in lines]
    return set() if None in extras else {extra[1] for extra in extras if extra}


@functools.cache
def names_of_taut() -> set[str]:
    """What `import taut` alone gives."""
    code = "import taut; print(*dir(taut))"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_import_the_modules_of_taut_that_they_use(page):
    code = "".join(blocks(page, "python"))
    for name in set(re.findall(r"\btaut\.(\w+)", code)) - names_of_taut():
        assert re.search(rf"^ *(import|from) taut\.{name}\b", code, flags=re.MULTILINE), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    imported = modules_imported(monkeypatch)
    namespace: dict = {"__name__": "docs"}
    text = page.read_text()
    for match in re.finditer(r"```python\n(.*?)```", text, flags=re.DOTALL):
        imported.clear()
        exec(compile(match[1], page.name, "exec"), namespace)
        named = re.findall(r"pip install .(?:taut|\.)\[(.*?)\]", text[: match.start()])
        known = {"cli", *",".join(named).split(",")}
        for extras in filter(None, map(extras_with, imported)):
            assert extras & known, f"name the extra {min(extras)} before\n{match[1]}"
    if page.name == "README.md":
        accuracy = float(capsys.readouterr().out.split("\n")[-2].split()[0])
        assert accuracy > 0.8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_in_json_are_recipes(page):
    for block in blocks(page, "json"):
        Recipe.from_json(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_tables_are_those_of_the_records():
    for page in tables.PAGES:
        assert tables.updated(page) == page.read_text(), page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_marked_table_has_a_source(page):
    pattern = r"<!-- (?!end )([\w-]+)(?:: python -m experiments\.tables)? -->"
    marks = re.findall(pattern, page.read_text())
    assert sorted(marks) == sorted(tables.PAGES.get(page, {}))


def test_recorded_session_is_what_the_commands_print():
    runs = json.loads(RECORD.read_text())["session"]
    named = [run["command"].split() for run in runs]
    assert {words[1] for words in named if words[0] == "taut"} == set(COMMANDS)
    assert {words[2] for words in named if words[0] == "python"} == {
        "experiments.reproduce",
        "experiments.speed",
    }
    quick = [run for run in runs if run["command"] == "taut list" or run["code"]]
    assert [run["code"] for run in quick] == [0, 2]
    for run in quick:
        assert called(run["command"]) == (run["code"], run["output"])


@pytest.mark.slow
def test_recorded_session_can_be_done_again():
    before = json.loads(RECORD.read_text())["session"]
    for old, new in zip(before, session([run["command"] for run in before]), strict=True):
        assert (new["command"], new["code"]) == (old["command"], old["code"])
        # Numbers, and the columns and spectra that depend on them, are the machine's.
        words = [re.findall(r"[A-Za-z]{3,}", str(run["output"])) for run in (old, new)]
        assert words[0] == words[1]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120
