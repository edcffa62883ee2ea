"""Checks that the wheel works with the core dependencies alone, and counts them.

Builds the wheel, installs it without extras into a virtual environment of its own, and there
imports taut, and bounds, certifies and freezes a net on the embedded data. Needs the
package index for what the environment does not find on disk. Run from the repository root:

    python scripts/check_core_install.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST = 5  # packages beside torch and what torch itself requires

WORK = """
import sys
import torch
import taut

data = taut.data.load("fashion-mnist-subset")
images, labels = next(taut.data.batches(data.test, 50, seed=0, epoch=0))
model = torch.nn.Sequential(
    taut.nn.Conv2d(1, 8, 4, stride=2), taut.nn.MaxMin(), torch.nn.Flatten(),
    taut.nn.Linear(8 * 14 * 14, 10),
).eval()
result = taut.certify(model, images, labels, eps=(0.1,))
assert 0 <= result.certified_accuracy[0.1] <= result.clean_accuracy <= 1
assert float(taut.lipschitz_bound(model, data.input_shape)) < 1.001
frozen = taut.freeze(model)
assert torch.allclose(frozen(images), model(images), atol=1e-5)
heavy = {"PIL", "datasets", "lightning_fabric", "matplotlib", "onnx", "ot", "rich", "scipy", "tyro"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""

COUNT = """
import re
from importlib.metadata import distributions, requires

name = lambda text: re.sub(r"[-_.]+", "-", re.match(r"[\\w.-]+", text)[0]).lower()
installed = {name(d.metadata["Name"]) for d in distributions()}
ours, todo = installed - {"pip", "taut"}, ["torch"]
while todo:
    package = todo.pop()
    if package in ours:
        ours.remove(package)
        todo += [name(r) for r in requires(package) or () if "extra ==" not in r]
print(*sorted(ours))
"""


def main() -> None:
    """Build, install, run, count."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, str(ROOT))
        (wheel,) = place.glob("taut-*.whl")
        run(sys.executable, "-m", "venv", str(place / "venv"))
        python = next(p for p in place.glob("venv/*/python*") if p.stem == "python")
        constraints = str(ROOT / "constraints.txt")
        run(str(python), "-m", "pip", "install", "-q", "-c", constraints, str(wheel))
        run(str(python), "-W", "error", "-c", WORK, cwd=folder)
        packages = run(str(python), "-c", COUNT, cwd=folder).split()
    print(f"taut works with {len(packages)} packages beside torch's own: {', '.join(packages)}.")
    if len(packages) > MOST:
        sys.exit(f"At most {MOST} are allowed.")


def run(*command: str, cwd: str | None = None) -> str:
    """Run a command; its output, or exit with its error."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
