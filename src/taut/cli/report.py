"""`taut report`."""

import json
import platform
import shlex
from pathlib import Path

import torch

import taut
from taut.attacks import ATTACKS, Target, read_attacks
from taut.cli.shared import OptionalFolder, RunFolder, progress
from taut.diagnostics import inspect
from taut.recipes import RECIPES
from taut.report import ReportInputs, Robustness, attack_lines, measure_robustness, write_report
from taut.training import Device, OpenedRun, Run, check_limit


def report(
    run: RunFolder,
    *,
    limit: int = 200,
    data_dir: OptionalFolder = None,
    device: Device = "auto",
) -> None:
    """Certify, attack and inspect a run, and write one HTML page about it.

    Writes report.html into the run folder; it needs no network, and includes the results of
    `taut attack` there. Fails (exit code 1) if an attack refutes a certificate; the page says so.

    Example: taut report runs/demo --limit 500

    Args:
        run: the run folder.
        limit: number of test images to attack, the first ones.
        data_dir: where the data set of the run is now, if it has moved.
        device: auto uses a GPU if there is one.
    """
    target, robustness = make_report(OpenedRun.open(run, device=device, data_dir=data_dir), limit)
    print(f"Wrote {target}")
    fail_if_refuted(robustness)


def fail_if_refuted(found: Robustness) -> None:
    """Raise where an attack did better than the proof allows."""
    broken = found.broken_certificates()
    if broken:
        raise RuntimeError(
            f"A certificate is broken: an attack changes the certified answer for test image "
            f"{broken[0]} ({len(broken)} in all) within its certified radius of "
            f"{float(found.radius[broken[0]]):.6g}. Please report this as a bug."
        )


def make_report(opened: OpenedRun, limit: int) -> tuple[Path, Robustness]:
    """Measure and write; returns the page and what was measured on the attacked images."""
    run, recipe = opened.run, opened.run.recipe
    check_limit(limit)
    eps = opened.radii()
    certification = opened.certify(eps)
    earlier = read_attacks(run.path / ATTACKS)
    images, labels = opened.head(max([limit, *map(len, earlier)]))
    target = Target(opened.model, images, certification)
    images, labels = images[:limit], labels[:limit]
    with progress("attacking", len(labels)) as tell:
        robustness = measure_robustness(opened.model, images, eps, certification, on_progress=tell)
    inputs = ReportInputs(
        title=recipe.name,
        dataset=opened.data.label,
        classes=opened.data.classes,
        eps=eps,
        certification=certification,
        robustness=robustness,
        attacks=attack_lines(target.kept(run.path / ATTACKS), certification, eps),
        layers=inspect(opened.model, images, labels, jacobian=False).layers,
        history=run.history(),
        settings=_settings(run),
        commands=_commands(run, limit),
        versions=versions(),
    )
    return write_report(run.path / "report.html", inputs), robustness


def _settings(run: Run) -> dict[str, object]:
    """The recipe as flat names and values; tells if fewer epochs are done than it asks for."""
    values = json.loads(run.recipe.to_json())
    flat = {name.replace("_", " "): _plain(value) for name, value in values.items()}
    done = len(run.history())
    if done < run.recipe.epochs:
        flat["epochs"] = f"{run.recipe.epochs}, {done} of them done"
    return flat


def _plain(value: object) -> object:
    """A JSON value as text without brackets."""
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        numbers = all(isinstance(item, int) for item in value)
        return (" × " if numbers else ", ").join(map(str, value))
    return "none" if value is None else value


def _commands(run: Run, limit: int) -> list[str]:
    """What makes the run and this page again."""
    recipe, folder = run.recipe, shlex.quote(str(run.path))
    known = RECIPES.get(recipe.name) == recipe
    source = recipe.name if known else shlex.quote(str(run.path / "recipe.json"))
    data = "" if run.data_dir is None else " --data-dir DATA_DIR"
    train = f"taut train {source}{data} --run {folder}"
    return [train, f"taut certify {folder}", f"taut report {folder} --limit {limit}"]


def versions() -> dict[str, str]:
    """Versions of the software, and the machine."""
    return {
        "taut": taut.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }
