"""`taut report`."""

import json
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

import taut
from taut._zoo import located
from taut.attacks import ATTACKS, Target, read_attacks
from taut.certification import certify
from taut.cli.model_file import NO_FILE, ModelFile, OpenedFile, open_model, open_run
from taut.cli.shared import OptionalFolder, Runs, progress
from taut.data import class_names
from taut.diagnostics import gradient_profile, inspect
from taut.recipes import RECIPES
from taut.report import (
    MOST,
    ComparedRun,
    ReportInputs,
    Robustness,
    attack_lines,
    measure_robustness,
    write_comparison,
    write_report,
)
from taut.training import Device, EpochRow, OpenedRun, Run


def report(
    runs: Runs = (),
    *,
    plain: Annotated[ModelFile, tyro.conf.OmitArgPrefixes] = NO_FILE,
    output: OptionalFolder = None,
    limit: int = 200,
    data_dir: OptionalFolder = None,
    device: Device = "auto",
) -> None:
    """Certify, attack and inspect a run, and write the results as one HTML page.

    Writes report.html into the run folder, or into the current folder for a model in a file. The
    page needs no network and includes the results of `taut attack`. Several runs are compared on
    one page, comparison.html in the folder of the first. Exit code 1 if an attack refutes a
    certificate; the page says so.

    Example: taut report runs/demo --limit 500

    Example: taut report runs/mine-bcop runs/mine-rko

    Example: taut report zoo:mnist-small --data test.npz

    Example: taut report --model net.py:make --weights net.pt --input-shape 3,32,32 --data test.npz

    Args:
        runs: run folders; or one file that `taut export` wrote, or model of the zoo, with data.
        plain: a model in a file; it needs data.
        output: another file for the page of a model in a file or of several runs.
        limit: number of test images to attack, the first ones.
        data_dir: where the data set of the runs is now, if it has moved.
        device: auto uses a GPU if there is one.
    """
    if len(runs) > 1:
        plain.refuse_beside_run()
        opened_runs = [open_run(folder, device, data_dir) for folder in runs]
        _compare(opened_runs, limit, output)
        return
    run = runs[0] if runs else None
    if run is not None and output is not None and not located(run).is_file():
        raise ValueError("`output` is for a model in a file; the page of a run lies in its folder.")
    opened = open_model(run, plain, device, data_dir, files=True)
    if isinstance(opened, OpenedRun):
        target, robustness = make_report(opened, limit)
    else:
        page = Path("report.html") if output is None else output
        target, robustness = _report_file(opened, plain, limit, page, run)
    print(f"Wrote {target}")
    fail_if_refuted(robustness)


def _compare(opened_runs: Sequence[OpenedRun], limit: int, output: Path | None) -> None:
    """Write the page of several runs of one data set."""
    sets = {opened.data.label for opened in opened_runs}
    if len(sets) > 1:
        raise ValueError(f"Runs to compare must be of one data set; got {', '.join(sorted(sets))}.")
    folders = [str(opened.run.path) for opened in opened_runs]
    if len(set(folders)) < len(folders) or len(folders) > MOST:
        raise ValueError(f"Runs to compare must be at most {MOST}, each given once.")
    eps = opened_runs[0].radii()
    short = [Path(folder).resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else folders
    pairs = zip(names, opened_runs, strict=True)
    compared = [_compared(name, opened, eps, limit) for name, opened in pairs]
    page = opened_runs[0].run.path / "comparison.html" if output is None else output
    words = ["taut", "report", *folders, "--limit", str(limit)]
    words += [] if output is None else ["--output", str(output)]
    label = opened_runs[0].data.label
    command = shlex.join(words)
    print(f"Wrote {write_comparison(page, compared, dataset=label, eps=eps, command=command)}")
    for one in compared:
        fail_if_refuted(one.robustness)


def _compared(name: str, opened: OpenedRun, eps: Sequence[str], limit: int) -> ComparedRun:
    """What a comparison shows of one run, on its first test images."""
    images, labels = opened.head(limit)
    certification = certify(opened.model, images, labels, eps)
    with progress(f"attacking {name}", len(labels)) as tell:
        found = measure_robustness(opened.model, images, eps, certification, on_progress=tell)
    return ComparedRun(
        name=name,
        robustness=found,
        history=_with_columns(opened.run.history(), eps),
        judged_on=_judged_on(opened.run),
        profile=gradient_profile(inspect(opened.model, images, labels, jacobian=False)),
        bound=float(certification.bound),
    )


def _judged_on(run: Run) -> str:
    return "validation" if run.recipe.validation else "test"


def _with_columns(history: list[EpochRow], eps: Sequence[str]) -> list[EpochRow]:
    """The history, or none if it is not of these radii."""
    names = {f"certified_accuracy_{text}" for text in eps}
    return history if history and names <= history[0].keys() else []


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
    run, measured = opened.run, _measured(opened, limit)
    certification, eps = measured["certification"], measured["eps"]
    earlier = read_attacks(run.path / ATTACKS)
    images, _ = opened.head(max([limit, *map(len, earlier)]))
    kept = Target(opened.model, images, certification).kept(run.path / ATTACKS)
    inputs = ReportInputs(
        title=run.recipe.name,
        dataset=opened.data.label,
        classes=opened.data.classes,
        attacks=attack_lines(kept, certification, eps),
        history=run.history(),
        settings=_settings(run),
        commands=_commands(run, limit),
        judged_on=_judged_on(run),
        **measured,
    )
    return write_report(run.path / "report.html", inputs), inputs.robustness


def _report_file(
    opened: OpenedFile, plain: ModelFile, limit: int, page: Path, run: Path | None
) -> tuple[Path, Robustness]:
    """The same of a model in a file, of which no training is known."""
    given = {name: value for name, value in vars(plain).items() if value is not None}
    flags = {f"--{name.replace('_', '-')}": str(value) for name, value in given.items()}
    words = [word for flag in flags.items() for word in flag]
    place = [] if run is None else [str(run)]
    command = ["taut", "report", *place, *words, "--limit", str(limit), "--output", str(page)]
    inputs = ReportInputs(
        title=Path(opened.name).name,
        dataset=opened.data.stem,
        classes=class_names("npz", opened.data) or (),
        attacks=(),
        history=(),
        settings={name.replace("_", " "): value for name, value in given.items()},
        commands=[shlex.join(command)],
        **_measured(opened, limit),
    )
    return write_report(page, inputs), inputs.robustness


def _measured(opened: OpenedRun | OpenedFile, limit: int) -> dict[str, Any]:
    """What a page says of a model, wherever it is from."""
    images, labels = opened.head(limit)
    eps = opened.radii()
    certification = opened.certify(eps)
    with progress("attacking", len(labels)) as tell:
        robustness = measure_robustness(opened.model, images, eps, certification, on_progress=tell)
    return {
        "eps": eps,
        "certification": certification,
        "robustness": robustness,
        "layers": inspect(opened.model, images, labels, jacobian=False).layers,
        "versions": versions(),
    }


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
