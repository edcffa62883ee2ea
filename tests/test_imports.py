"""What imports need: the core is light, commands and training say which extra is missing."""

import subprocess
import sys

import pytest

EXTRA = ("rich", "tyro", "lightning_fabric", "matplotlib", "PIL", "jinja2", "filelock")


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_core_imports_nothing_of_the_command_line():
    # Modules of torch itself are torch's choice.
    script = (
        "import sys, torch; before = set(sys.modules); import taut; "
        f"print(sorted((set(sys.modules) - before) & set({EXTRA})))"
    )
    done = python(script)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_commands_name_the_extra_that_they_need():
    script = (
        "import sys; sys.modules['tyro'] = None; from taut.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    for arguments in (["--help"], ["--version"]):
        assert python(script, *arguments).returncode == 0
    done = python(script, "list")
    expected = "taut: `list` needs tyro: pip install 'taut[cli]'.\n"
    assert (done.returncode, done.stderr) == (2, expected)


@pytest.mark.parametrize("library", ["filelock", "lightning_fabric"])
def test_training_names_the_extra_that_it_needs(library, tmp_path):
    script = (
        f"import sys; sys.modules[{library!r}] = None; import taut\n"
        "try:\n"
        "    from taut.training import Recipe, train\n"
        "    train(Recipe(name='a', dataset='fashion-mnist-subset'), sys.argv[1])\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    done = python(script, str(tmp_path / "run"))
    assert f"taut.training needs {library.replace('_', '-')}: pip" in done.stdout, done.stderr
    assert not (tmp_path / "run").exists()
