"""The paper's tables again: their values, what is run and what is not, what is refused."""

import json
import shutil
import signal
from collections import namedtuple
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from experiments import _training
from experiments.reproduce import EXPERIMENT, _command, _work
from experiments.reproduce._page import Line, cells, markdown
from experiments.reproduce._plan import check, make_plan
from experiments.reproduce._protocol import DATASETS, SETTINGS
from experiments.reproduce._published import (
    TABLES,
    Column,
    Measure,
    PublishedTable,
    PublishedValue,
    ours,
    quoted,
)
from experiments.reproduce._work import PROTOCOL, measured, take
from taut.attacks import _trials
from taut.files import load_tensors, save_tensors
from taut.training import Exponential, Run

QUICK = ("table1", "--setting", "quick", "--only", "small", "rko", "bcop")
RUNS = [f"runs/fashion-mnist-subset-small-{method}-seed0" for method in ("rko", "bcop")]

# The paper's tables as facts, typed a second time: per cell clean and certified, or as headed.
METHODS_TABLE = """
mnist small OSSN 96.86 42.95 RKO 97.28 43.58 SVCM 97.24 28.94 BCOP 97.54 45.84
mnist large OSSN 98.31 53.77 RKO 98.44 55.18 SVCM 97.93 38.00 BCOP 98.77 56.66
cifar10 small OSSN 62.18 48.03 RKO 61.77 47.46 SVCM 62.39 47.59 BCOP 64.53 50.01
cifar10 large OSSN 67.51 53.64 RKO 70.01 55.76 SVCM 69.65 53.61 BCOP 72.41 58.72
"""
FROZEN_TABLE = """
mnist small BCOPFixed 93.57 7.51 RKL2NE 95.85 39.77 BCOP 97.54 45.84
mnist large BCOPFixed 65.20 0.00 RKL2NE 96.76 37.79 BCOP 98.77 56.66
cifar10 small BCOPFixed 50.61 36.44 RKL2NE 58.82 44.65 BCOP 64.53 50.01
cifar10 large BCOPFixed 47.14 27.43 RKL2NE 56.75 43.40 BCOP 72.41 58.72
"""
SYSTEMS = {
    "table2": {
        ("mnist", "BCOP Large"): (98.77, 56.66),
        ("mnist", "FC-3"): (98.71, 54.46),
        ("mnist", "KW Large"): (88.12, 44.53),
        ("cifar10", "BCOP Large"): (72.41, 58.72),
        ("cifar10", "FC-3"): (62.60, 49.97),
        ("cifar10", "KW Large"): (59.76, 50.60),
        ("cifar10", "KW ResNet"): (61.20, 51.96),
    },
    "table3": {
        ("cifar10", "KW Small"): (54.39, 49.94, 49.98, 63, 60, 63),
        ("cifar10", "BCOP Small"): (64.53, 51.26, 51.57, 74.2, 61.2, 74.0),
        ("cifar10", "KW Large"): (60.14, 55.53, 55.55, 68, 64, 68),
        ("cifar10", "BCOP Large"): (72.41, 64.39, 64.53, 77.6, 71.2, 77.2),
    },
    "table8": {
        ("mnist", "BCOP Large"): (98.77, 97.11),
        ("mnist", "FC-3"): (98.71, 97.06),
        ("cifar10", "BCOP Large"): (72.41, 62.97),
        ("cifar10", "FC-3"): (62.60, 53.67),
    },
    "table9": {
        ("mnist", "BCOP Large"): (98.77, 56.66, 86.86, 86.93),
        ("mnist", "FC-3"): (98.71, 54.46, 81.96, 83.64),
        ("mnist", "QW-3"): (98.65, 42.13, 86.86, 85.83),
        ("mnist", "QW-4"): (98.23, 27.59, 86.25, 84.17),
        ("cifar10", "BCOP Large"): (72.41, 58.72, 64.39, 64.53),
        ("cifar10", "FC-3"): (62.60, 49.97, 50.05, 50.21),
        ("cifar10", "QW-3"): (79.15, 44.46, 72.07, 72.11),
        ("cifar10", "QW-4"): (77.15, 31.41, 71.89, 71.92),
    },
}


def parsed(text):
    found = {}
    for line in text.split("\n"):
        dataset, size, *rest = line.split() or (None, None)
        for method, clean, certified in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
            system = f"{method} {size.capitalize()}"
            found[dataset, system] = float(clean), float(certified)
    return found


def test_published_values_are_those_of_the_paper():
    facts = {"table1": parsed(METHODS_TABLE), "table7": parsed(FROZEN_TABLE), **SYSTEMS}
    assert {
        name: {(r.dataset, r.system): tuple(v.mean for v in r.published) for r in table.rows}
        for name, table in TABLES.items()
    } == facts
    assert all(
        len(row.published) == len(table.columns) and row.source.startswith("Li et al. (2019)")
        for table in TABLES.values()
        for row in table.rows
    )
    deviations = [v.std for row in TABLES["table1"].rows for v in row.published if v.std]
    assert deviations == [0.06, 0.90, 0.05, 0.23, 0.30, 0.21, 0.22, 0.23]
    assert {row.system for t in TABLES.values() for row in t.rows if row.method is None} == {
        "KW Small",
        "KW Large",
        "KW ResNet",
        "QW-3",
        "QW-4",
    }


def test_the_paper_setting_is_the_papers_protocol():
    setting = SETTINGS["paper"]
    assert setting.seeds == tuple(range(5))
    assert setting.attacked is None
    for dataset, eps_train, large, small in (
        ("mnist", 1.5, "1.58", "0.3"),
        ("cifar10", 0.5, "36/255", "0.1"),
        ("cifar10-jpeg75", 0.5, "36/255", "0.1"),
    ):
        recipe = setting.recipe(dataset, "large", "BCOP", seed=1)
        assert (recipe.lr, recipe.schedule, recipe.epochs) == (1e-3, Exponential(), 200)
        assert (recipe.batch_size, recipe.loss.eps_train) == (128, eps_train)
        assert set(recipe.eps) == {large, small}
        assert (recipe.augment is not None) == dataset.startswith("cifar10")
        assert DATASETS[dataset].radii == {"large": large, "small": small}
    assert PROTOCOL["pgd"].options == {"steps": 200, "step_size": 0.01}
    short = SETTINGS["short"]
    rates = [short.recipe("mnist", "small", method, seed=0).lr for method in ("BCOP", "SVCM")]
    assert rates == [5e-3, 5e-4]  # free between projections, SVCM outgrows the common rate


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Two nets of table 1, one epoch each, never interrupted."""
    path = tmp_path_factory.mktemp("reproduce") / "quick"
    assert EXPERIMENT.run([*QUICK, "--out", str(path)]) == 0
    return path


def states(folder):
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_finished_table_is_left_alone(out, capsys):
    before = states(out)
    assert EXPERIMENT.run([*QUICK, "--out", str(out)]) == 0
    assert states(out) == before
    printed = capsys.readouterr()
    assert "BCOP Small" in printed.out
    assert "run 1" not in printed.err


def test_the_numbers_are_those_of_certificate_and_history(out, capsys):
    EXPERIMENT.run([*QUICK, "--out", str(out)])
    page = (out / "table1.md").read_text()
    assert "](table1.png)" in page
    assert (out / "table1.png").read_bytes().startswith(b"\x89PNG")
    for folder, system in zip(RUNS, ("RKO Small", "BCOP Small"), strict=True):
        certificate = json.loads((out / folder / "certificate.json").read_text())
        assert certificate["arithmetic"] == "float64"
        share = sum(Fraction(r) > Fraction("1.58") for r in certificate["radius"]) / 1000
        clean = Run.open(out / folder).history()[-1]["clean_accuracy"]
        assert 0.3 < clean < 1
        for measure, value in (("clean", clean), ("certified at 1.58", share)):
            line = f"| {system} | {measure} | {100 * value:.2f} | – | – |"
            assert line in page
    assert "an extension, by the protocol of MNIST" in page


def test_ctrl_c_in_the_middle_resumes_bitwise(out, tmp_path, monkeypatch, capsys):
    runs = []

    @contextmanager
    def interrupting(epochs):
        runs.append(epochs)

        def tell(progress):
            if len(runs) == 2 and progress.step == 5:
                signal.raise_signal(signal.SIGINT)

        yield tell

    arguments = [*QUICK, "--out", str(tmp_path / "again")]
    monkeypatch.setattr(_training, "show_training", interrupting)
    assert EXPERIMENT.run(arguments) == 130
    printed = capsys.readouterr()
    assert "the same command goes on" in printed.err
    assert "So far 1 of 2 runs." in printed.out
    first, second = (tmp_path / "again" / run for run in RUNS)
    done = states(first)
    assert not Run.open(second).finished()
    assert EXPERIMENT.run(arguments) == 0
    assert states(first) == done
    for run in RUNS:
        model = "model.safetensors"
        again = (tmp_path / "again" / run / model).read_bytes()
        assert again == (out / run / model).read_bytes()
    assert (tmp_path / "again/table1.md").read_text() == (out / "table1.md").read_text()


def test_a_model_older_than_the_last_row_is_not_finished(out, tmp_path):
    run = Run.open(shutil.copytree(out / RUNS[0], tmp_path / "run"))
    assert run.finished()
    path = run.path / "model.safetensors"
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, {"step": str(int(metadata["step"]) - 1)})
    assert not run.finished()


ATTACKED = PublishedTable(
    name="small-table9",
    title="Attacks on Small",
    radius="small",
    columns=(Column("clean", 3), Column("certified"), Column("pgd"), Column("fgsm")),
    rows=(
        ours("mnist", "small", "RKO", 50.0, 50.0, 50.0, 50.0, source="nowhere"),
        quoted("mnist", "QW-3", 1.0, 2.0, 3.0, 4.0, source="nowhere"),
    ),
)


def attacked_plan(out):
    setting = replace(SETTINGS["quick"], attacked=16)
    return make_plan(ATTACKED, setting, out, only=["small"])


def test_attacks_are_kept_one_by_one_and_not_repeated(out, tmp_path, monkeypatch):
    plan = attacked_plan(shutil.copytree(out, tmp_path / "out"))
    (trial,) = check(plan)
    run, attack, calls = Run.open(trial.folder), _trials.attack, []

    def counted(model, images, labels, eps, method):
        calls.append(type(method).__name__)
        if calls == ["PGD", "FGSM"]:
            raise KeyboardInterrupt
        return attack(model, images, labels, eps, method)

    monkeypatch.setattr(_trials, "attack", counted)
    cpu = torch.device("cpu")
    with pytest.raises(KeyboardInterrupt):
        take(run, trial.measures, cpu)
    assert check(plan) == [trial]
    take(run, trial.measures, cpu)
    assert calls == ["PGD", "FGSM", "FGSM"]
    assert check(plan) == []
    take(run, trial.measures, cpu)
    assert len(calls) == 3

    known, certificate = measured(run), json.loads((run.path / "certificate.json").read_text())
    right = [p == y for p, y in zip(certificate["predictions"], certificate["labels"], strict=True)]
    proved = sum(Fraction(r) > Fraction("0.3") for r in certificate["radius"][:16]) / 16
    assert known["clean, first 3"] == sum(right[:3]) / 3
    pgd, fgsm = (known[f"{name} at 0.3, first 16"] for name in ("PGD", "FGSM"))
    assert proved <= pgd <= fgsm <= sum(right[:16]) / 16
    assert pgd < sum(right[:16]) / 16


def test_a_broken_certificate_fails(out, tmp_path, monkeypatch):
    plan = attacked_plan(shutil.copytree(out, tmp_path / "out"))
    (trial,) = check(plan)
    true = _work.certify

    def boast(*args, **options):
        found = true(*args, **options)
        found.radius[found.predictions == found.labels] = 1.0
        return found

    monkeypatch.setattr(_work, "certify", boast)
    with pytest.raises(RuntimeError, match=r"test image \d+ is misclassified by pgd-paper at a"):
        take(Run.open(trial.folder), trial.measures, torch.device("cpu"))
    assert "PGD at 0.3, first 16" not in measured(Run.open(trial.folder))


def test_mean_deviation_and_difference():
    line = Line("A", "MNIST", Measure("clean", ""), (96.0, 97.0, 98.5), PublishedValue(97.54, 0.06))
    mean = (96 + 97 + 98.5) / 3
    assert line.mean == pytest.approx(mean)
    squares = sum((x - mean) ** 2 for x in (96, 97, 98.5))
    assert line.std == pytest.approx((squares / 2) ** 0.5)
    assert line.difference == pytest.approx(mean - 97.54)
    assert cells(line)[2:] == ("97.17 ± 1.26", "97.54 ± 0.06", "−0.37")
    assert cells(replace(line, ours=()))[2::2] == ("–", "–")


def paged(tmp_path, table, *only):
    plan = make_plan(TABLES[table], SETTINGS["paper"], tmp_path, only=only)
    return plan, markdown(plan.page())


def test_the_jpeg_copy_is_no_cifar10(tmp_path):
    plan, page = paged(tmp_path, "table9", "cifar10-jpeg75")
    assert "## CIFAR-10 (JPEG q75)" in page
    assert "72.41 †" in page
    assert all(line.difference is None for line in plan.page().lines)
    assert "| QW-3 | FGSM at 36/255 | quoted only | 72.11 | – |" in page
    assert len(plan.runs) == 2 * 5
    assert {t.recipe.dataset for t in plan.runs} == {"cifar10-jpeg75"}


def test_extensions_have_no_published_values(tmp_path):
    plan, page = paged(tmp_path, "table9", "fashion-mnist", "bcop")
    assert [line.published for line in plan.page().lines] == [None] * 4
    assert "QW" not in page
    assert "Fashion-MNIST: an extension, by the protocol of MNIST." in page
    _, page = paged(tmp_path, "table3", "mnist")
    assert "MNIST: an extension, by the protocol of MNIST." in page
    assert "boundary at 1.58, first 100" in page


def test_only_keeps_what_it_names(tmp_path):
    plan, page = paged(tmp_path, "table9", "MNIST", "large")
    assert [planned.row.system for planned in plan.rows] == ["BCOP Large"]
    plan, page = paged(tmp_path, "table9", "mnist")
    assert [p.row.system for p in plan.rows] == ["BCOP Large", "FC-3", "QW-3", "QW-4"]
    assert "difference" in page


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=2):
        assert EXPERIMENT.run([*map(str, arguments)]) == code
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def test_what_cannot_be_done_is_one_sentence(refused, tmp_path):
    assert "one of table1, table2, table3, table4, table7, table8, table9" in refused("table5")
    assert "BCOP; got 'glue'" in refused("table1", "--only", "mnist", "glue")
    assert "must leave a row" in refused("table9", "--only", "large", "orthogonal")
    only = ("--only", "mnist", "small", "bcop")
    assert "files of mnist; got None" in refused("table1", *only)
    assert "not found in no-such-folder" in refused("table1", *only, "--data-dir", "no-such-folder")
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    assert "data/mnist" in refused("table1", "--only", "small", "bcop", "--data-dir", "data")
    assert "`--seeds`" in refused("table1", *only, "--seeds", "1", "1")
    assert "`--attacked`" in refused("table1", *only, "--attacked", "0")
    assert "`--epochs`" in refused("table1", *only, "--epochs", "0")
    assert not (tmp_path / "runs").exists()


def test_too_little_disk_is_refused_before_anything_is_written(refused, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    line = refused(*QUICK, "--out", "here", code=1)
    assert "too little room" in line
    assert "1 MB are free" in line
    assert not (tmp_path / "here").exists()


def test_a_run_of_another_recipe_is_refused_untouched(refused, out):
    before = states(out)
    line = refused(*QUICK, "--out", out, "--epochs", "2")
    assert "holds a run of another recipe (`--epochs` is 1 there, 2 now)" in line
    assert states(out) == before


def test_damaged_files_are_named(refused, out, tmp_path):
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    (copy / RUNS[1] / "measured.json").write_text("[1]")
    line = refused(*QUICK, "--out", copy)
    assert "measured.json is damaged" in line


def test_a_record_says_what_the_page_says(out, tmp_path, monkeypatch):
    only = ["small", "rko", "bcop"]
    plan = make_plan(TABLES["table1"], SETTINGS["quick"], out, only=only)
    before, path = states(out), tmp_path / "records" / "tables" / "one.json"
    assert EXPERIMENT.run([*QUICK, "--out", str(out), "--record", str(path)]) == 0
    assert states(out) == before
    found = json.loads(path.read_text())
    command = f"python -m experiments.reproduce {' '.join(QUICK)} --out DIR"
    assert [run["trained"]["command"] for run in found["runs"]] == [command] * 2
    kinds = [run["recipe"]["parametrization"]["kind"] for run in found["runs"]]
    assert kinds == ["RKO", "BCOP"]
    monkeypatch.setattr(_command, "RECORDS", tmp_path / "records")
    shown = _command.recorded_tables()
    for line in plan.page().lines:
        system, measure, *values = cells(line)
        assert f"| {system} | {line.dataset} | {measure} | {' | '.join(values)} |" in shown


@pytest.fixture(scope="module")
def every_table(tmp_path_factory):
    return tmp_path_factory.mktemp("reproduce") / "all"


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_every_cell_of_every_table_is_done_again_and_then_left_alone(table, every_table, capsys):
    """Large and FC-3, all methods and all attacks, in the quick setting."""
    arguments = [table, "--setting", "quick", "--out", str(every_table)]
    assert EXPERIMENT.run(arguments) == 0
    plan = make_plan(TABLES[table], SETTINGS["quick"], every_table)
    lines = plan.page().lines
    assert len(lines) == len(plan.rows) * len(TABLES[table].columns)
    assert all(len(line.ours) == 1 and 0 <= line.ours[0] <= 100 for line in lines)
    before = states(every_table)
    assert EXPERIMENT.run(arguments) == 0
    assert states(every_table) == before
    written = (every_table / f"{table}.md").read_text()
    assert written.startswith(markdown(plan.page()))
    assert written.endswith(f"({table}.png)\n")
