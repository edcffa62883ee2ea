"""Build the release into dist/, and check it as a user gets it.

    make release-check

1. The version is the same in pyproject.toml, the package, CITATION.cff and CHANGELOG.md.
2. `python -m build` makes the sdist, and the wheel from it.
3. `twine check --strict` reads the metadata and renders the README; none of its links is relative.
4. The wheel is installed into a new environment; there `taut demo` trains, certifies and attacks.

Needs the package index. Prints each step; the exit code is 1 at the first that fails. Uploading is
left to you: `python -m twine upload dist/*`.
"""

import email
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
SHIPPED = ("taut/py.typed", "taut/zoo/manifest.json", "taut/certification/verifier.py")


def main() -> None:
    """Run all steps."""
    version = agreed_version()
    print(f"version {version}: agreed by all files")
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT))
    files = sorted(DIST.iterdir())
    print(
        "built:", ", ".join(f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in files)
    )
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, files))
    (wheel,) = DIST.glob("*.whl")
    check_wheel(wheel, version)
    print("metadata: README renders, links are absolute, files are there")
    with tempfile.TemporaryDirectory() as folder:
        print(demo(wheel, Path(folder), version))


def agreed_version() -> str:
    """The version; exits if two files name different ones."""
    project = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    found = {
        "src/taut/__init__.py": search(r'^__version__ = "(.+)"', "src/taut/__init__.py"),
        "CITATION.cff": search(r"^version: (.+)", "CITATION.cff"),
        # What the next release changes stands above the headings of the versions.
        "CHANGELOG.md": search(r"^## \[(\d.*?)\]", "CHANGELOG.md"),
    }
    for path, version in found.items():
        if version != project:
            sys.exit(f"{path} says version {version}, pyproject.toml says {project}.")
    return project


def check_wheel(wheel: Path, version: str) -> None:
    """Refuse a wheel without its files, or with links that work in the repository alone."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = email.message_from_bytes(archive.read(f"taut-{version}.dist-info/METADATA"))
    licence = f"taut-{version}.dist-info/licenses/LICENSE"
    if missing := [name for name in (*SHIPPED, licence) if name not in names]:
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}.")
    if relative := re.search(r"\]\((?!https?:|#)[^)]*\)", str(about.get_payload())):
        sys.exit(f"the README of {wheel.name} has a relative link: {relative[0]}")


def demo(wheel: Path, folder: Path, version: str) -> str:
    """The table that `taut demo` prints, from the wheel in an environment of its own."""
    run(sys.executable, "-m", "venv", str(folder / "venv"))
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python, constraints = str(scripts / "python"), str(ROOT / "constraints.txt")
    run(python, "-m", "pip", "install", "-q", "-c", constraints, f"taut[cli] @ {wheel.as_uri()}")
    where = run(python, "-c", "import taut; print(taut.__version__, taut.__file__)", cwd=folder)
    if not where.startswith(f"{version} {folder}"):
        sys.exit(f"the environment imports another taut: {where.strip()}")
    printed = run(str(scripts / "taut"), "demo", cwd=folder)
    if not (folder / "runs" / "demo" / "report.html").is_file():
        sys.exit("`taut demo` wrote no report.")
    return printed


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def search(pattern: str, path: str) -> str:
    """What the first group of a pattern matches in a file."""
    found = re.search(pattern, text(path), flags=re.MULTILINE)
    return "none" if found is None else found[1]


def run(*command: str, cwd: Path = ROOT) -> str:
    """Run a command; its output, or exit with its error. No other taut is on the path."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
