"""`taut report`."""

import json
import platform
import shlex
from pathlib import Path

import torch

import taut
from taut.attacks import ATTACKS, Target, kept_attacks, read_attacks
from taut.cli.shared import Device, Opened, RunFolder, check_eps, open_run, progress
from taut.recipes import RECIPES
from taut.report import (
    ReportInputs,
    Robustness,
    attack_lines,
    inspect_layers,
    measure,
    write_report,
)
from taut.training import Run


def report(run: RunFolder, *, limit: int = 200, device: Device = "auto") -> None:
    """Certify, attack and inspect a run, and write one HTML page about it.

    Writes report.html into the run folder; it needs no network, and shows what `taut attack` has
    kept there, too. Fails (exit code 1) if an attack
    refutes a certificate; the page says so too.

    Example: taut report runs/demo --limit 500

    Args:
        run: the run folder.
        limit: attack the first so many test images.
        device: auto takes a GPU if there is one.
    """
    target, found = make_report(open_run(run, device), limit)
    print(f"Wrote {target}")
    fail_if_refuted(found)


def fail_if_refuted(found: Robustness) -> None:
    """Raise where an attack did better than the proof allows."""
    broken = found.broken_certificates()
    if broken:
        raise RuntimeError(
            f"A certificate is broken: an attack changes the certified answer for test image "
            f"{broken[0]} ({len(broken)} in all) within its certified radius of "
            f"{float(found.radius[broken[0]]):.6g}. Please report this as a bug."
        )


def make_report(opened: Opened, limit: int) -> tuple[Path, Robustness]:
    """Measure and write; returns the page and what was measured on the attacked images."""
    run, recipe = opened.run, opened.run.recipe
    eps = check_eps((), run)
    certification = opened.certify(eps)
    part, kept = opened.head(limit), read_attacks(run.path / ATTACKS)
    held, _ = opened.head(max([limit, *map(len, kept)]))  # as many as were ever attacked
    target = Target(opened.model, held, certification)
    with progress("attacking", len(part[1])) as tell:
        found = measure(opened.model, part[0], eps, certification, on_progress=tell)
    inputs = ReportInputs(
        title=recipe.name,
        dataset=opened.data.label,
        classes=opened.data.classes,
        eps=eps,
        certification=certification,
        robustness=found,
        attacks=attack_lines(kept_attacks(target, run.path / ATTACKS), certification, eps),
        layers=inspect_layers(opened.model, *part),
        history=run.history(),
        settings=_settings(run),
        commands=_commands(run, limit),
        versions=versions(),
    )
    return write_report(run.path / "report.html", inputs), found


def _settings(run: Run) -> dict[str, object]:
    """The recipe as flat names and values; tells if fewer epochs are done than it asks for."""
    flat: dict[str, object] = {}
    for name, value in json.loads(run.recipe.to_json()).items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
        flat[name.replace("_", " ")] = _plain(value)
    done = len(run.history())
    if done < run.recipe.epochs:
        flat["epochs"] = f"{run.recipe.epochs}, {done} of them done"
    return flat


def _plain(value: object) -> object:
    if isinstance(value, list):
        return (
            " × ".join(map(str, value))
            if all(isinstance(v, int) for v in value)
            else ", ".join(map(str, value))
        )
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
