"""`experiments.reproduce table4`: values, protocol, what is trained once, what is refused."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from experiments._record import Record
from experiments.reproduce import EXPERIMENT, _critics
from experiments.reproduce._critics import fits, generator_config, make_critic_plan
from experiments.reproduce._page import markdown
from experiments.reproduce._pairs import CRITIC_SETTINGS, PAIRS
from experiments.wgan.comparison import BY_PAPER, Contest, paper_critics
from experiments.wgan.heuristics import unconstrained, under_penalty
from experiments.wgan.training import WGANRun
from taut.wasserstein import Settings

pytestmark = pytest.mark.defaults  # also in the fixture that all tests share
QUICK = ("table4", "--setting", "quick", "--only", "bcop", "wgan-gp")
FILES = ("bcop-maxmin-rate0.01", "bcop-relu-rate0.01", "wgan-gp-rate0.001")


def test_published_values_are_those_of_the_paper():
    # Typed a second time: OSSN, RKO, BCOP.
    facts = {
        ("stl10", "MaxMin"): (7.39, 8.95, 9.91),
        ("stl10", "ReLU"): (7.06, 7.82, 8.28),
        ("cifar10", "MaxMin"): (3.29, 4.95, 5.34),
        ("cifar10", "ReLU"): (3.07, 4.20, 4.39),
    }
    for (pair, activation), values in facts.items():
        found = [PAIRS[pair].published[f"{name}, {activation}"] for name in ("OSSN", "RKO", "BCOP")]
        assert tuple(found) == values
    assert PAIRS["cifar10-jpeg75"].published == PAIRS["cifar10"].published
    assert {name for name, pair in PAIRS.items() if pair.published} == {
        "stl10",
        "cifar10",
        "cifar10-jpeg75",
    }


def test_the_paper_setting_is_the_papers_protocol():
    setting = CRITIC_SETTINGS["paper"]
    assert (setting.descent, setting.batch_size, setting.steps) == ("RMSprop", 64, 25_600)
    assert setting.rates == (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    assert (setting.width, setting.pairs) == (64, ("stl10", "cifar10"))
    made = generator_config(setting, (3, 64, 64))
    assert (made.critic, made.penalty, made.lr, made.critic_lr, made.width) == (
        "WGAN-GP",
        50.0,
        2e-4,
        2e-4,
        32,
    )


def test_the_papers_optimiser_is_rmsprop_at_a_constant_rate():
    x = torch.full((8, 1), 2.0)
    contest = Contest.between(x, torch.zeros(8, 1))
    made = []

    def maker():
        made.append(nn.Linear(1, 1))
        nn.init.constant_(made[-1].weight, 0.25)
        return made[-1]

    settings = Settings(steps=3, checks=1, lr=0.01)
    contest.fit(maker, settings, training=BY_PAPER)
    weight, square = 0.25, 0.0
    for _ in range(3):  # the gradient is -2 throughout
        square = 0.99 * square + 0.01 * 4.0
        weight += 0.01 * 2.0 / (square**0.5 + 1e-8)
    assert made[-1].weight.item() == pytest.approx(weight, rel=1e-5)


def test_no_critic_proves_more_than_the_optimal_matching():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.rand(36, 1, 8, 8, generator=generator) for _ in range(2))
    contest = Contest.between(p + 0.5, q)
    held = [side.held_out.flatten(1).double() for side in (contest.p, contest.q)]
    costs = torch.cdist(*held).numpy()
    exact = costs[linear_sum_assignment(costs)].mean()
    settings = Settings(steps=3, checks=1, batch_size=8, lr=0.03)
    makers = paper_critics((1, 8, 8), width=2)
    found = [contest.fit(maker, settings) for maker in makers.values()]
    wild = under_penalty(1e-9, 0)
    found.append(
        contest.fit(
            lambda: unconstrained((1, 8, 8), width=4),
            replace(settings, steps=40, checks=1),
            training=wild,
        )
    )
    assert all(0 <= fit.lower <= exact for fit in found)
    assert all(fit.lower == pytest.approx(max(fit.claimed / fit.bound, 0)) for fit in found)
    assert found[-1].claimed > exact  # what has no bound says anything
    assert found[-1].bound > 1


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    path = tmp_path_factory.mktemp("table4") / "quick"
    assert EXPERIMENT.run([*QUICK, "--out", str(path)]) == 0
    return path


def states(folder):
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def kept(out, name, seed=0):
    return out / "critics" / "fashion-mnist-subset" / f"{name}-seed{seed}.json"


def test_a_finished_table_is_left_alone(out, capsys):
    before = states(out)
    assert EXPERIMENT.run([*QUICK, "--out", str(out)]) == 0
    assert states(out) == before
    printed = capsys.readouterr()
    assert "BCOP, MaxMin" in printed.out
    assert printed.err == ""


def test_the_page_says_what_was_kept(out):
    page = (out / "table4.md").read_text()
    assert (out / "table4.png").read_bytes().startswith(b"\x89PNG")
    fit = {name: json.loads(kept(out, name).read_text())["fit"] for name in FILES}
    for name, system in zip(FILES[:2], ("BCOP, MaxMin", "BCOP, ReLU"), strict=True):
        assert fit[name]["bound"] == pytest.approx(1, abs=1e-6)
        assert f"| {system} | lower bound of W1 | {fit[name]['lower']:.2f} | – | – |" in page
    penalised = fit[FILES[2]]
    assert f"| WGAN-GP | claims, with no right to | {penalised['claimed']:.2f} |" in page
    assert f"| WGAN-GP | its proved Lipschitz bound | {penalised['bound']:.2f} |" in page
    assert "what it claims is no distance" in page


@pytest.mark.slow
def test_more_seeds_train_only_what_is_missing(out, tmp_path, capsys):
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    before = states(copy / "critics")
    seeds = ("--seeds", "0", "3", "--out", str(copy))
    assert EXPERIMENT.run([*QUICK[:-1], *seeds]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.rsplit(":", 1)[1] for line in lines if "generator" not in line] == [
        f" BCOP, {activation}, rate 0.01, seed 3" for activation in ("MaxMin", "ReLU")
    ]
    after = states(copy / "critics")
    assert before.items() < after.items()
    assert len(after) == len(before) + 2
    assert " ± " in (copy / "table4.md").read_text()


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_goes_on(out, tmp_path, monkeypatch, capsys):
    begun = []

    @contextmanager
    def interrupting(what, total):
        begun.append(what)
        if begun.count("critic") == 2:
            raise KeyboardInterrupt
        yield lambda done: None

    place = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(_critics, "progress", interrupting)
        assert EXPERIMENT.run([*QUICK, "--out", str(place)]) == 130
    printed = capsys.readouterr()
    assert "the same command goes on" in printed.err
    assert "So far 1 of 3 rows." in printed.out
    done = states(place / "critics")
    assert len(done) == 1
    assert EXPERIMENT.run([*QUICK, "--out", str(place)]) == 0
    assert done.items() < states(place / "critics").items()
    for name in FILES:
        assert kept(place, name).read_bytes() == kept(out, name).read_bytes()
    assert (place / "table4.md").read_bytes() == (out / "table4.md").read_bytes()


@pytest.mark.slow
def test_two_data_sets_need_no_generator_and_images_are_resized(tmp_path, capsys):
    files = tmp_path / "data" / "stl10"
    files.mkdir(parents=True)
    grey = np.full((12, 3, 96, 96), 51, np.uint8)
    for part in ("train", "test"):
        (files / f"{part}_X.bin").write_bytes(grey.tobytes())
        (files / f"{part}_y.bin").write_bytes(bytes([1] * 12))
    plan = make_critic_plan(
        CRITIC_SETTINGS["quick"],
        tmp_path / "out",
        only=("STL10", "BCOP", "MaxMin"),
        data_dir=tmp_path / "data",
    )
    plan.complete("cpu", Record(None, "none"))
    run = WGANRun.open(tmp_path / "out" / "generators" / "stl10-2")
    assert run.config.shape == (3, 64, 64)
    assert "generator" in capsys.readouterr().err.splitlines()[0]
    # One image against many: the mean distance to it, and no critic gets beyond.
    made = run.sample(12)
    reach = (made - 0.2).flatten(1).norm(dim=1).max()
    (fit,) = fits(plan, ("stl10", "BCOP, MaxMin"))
    assert 0 < fit.lower <= reach
    page = markdown(plan.page())
    assert "| 9.91 † | – |" in page
    assert "STL-10 (64 x 64)" in page
    assert max(map(len, plan.page().caption.splitlines())) <= 110
    assert plan.page().caption.split() == plan.page().heading.split()
    both = make_critic_plan(CRITIC_SETTINGS["short"], tmp_path, only=("mnist-fashion-mnist",))
    assert PAIRS[both.pairs[0]].datasets == ("mnist", "fashion-mnist")
    assert "samples of a generator" not in markdown(both.page())


def test_only_keeps_what_it_names(tmp_path):
    def kept_by(*words):
        plan = make_critic_plan(CRITIC_SETTINGS["paper"], tmp_path, only=words)
        return plan.pairs, plan.critics

    assert kept_by("RELU", "bcop")[1] == ("BCOP, ReLU",)
    assert kept_by()[0] == ("stl10", "cifar10")
    assert len(kept_by()[1]) == 7
    assert kept_by("wgan-gp", "mnist") == (("mnist",), ("WGAN-GP",))


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=2):
        assert EXPERIMENT.run([*map(str, arguments)]) == code
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def test_what_cannot_be_done_is_one_sentence(refused, tmp_path):
    assert "`--epochs` has no meaning for table4; got 2" in refused("table4", "--epochs", 2)
    assert "`--attacked` has no meaning for table4; got 2" in refused("table4", "--attacked", 2)
    assert "`--steps` has no meaning for table1; got 2" in refused("table1", "--steps", 2)
    assert "WGAN-GP; got 'glue'" in refused("table4", "--only", "glue")
    assert "must leave a critic" in refused("table4", "--only", "relu", "wgan-gp")
    assert "`--steps` must be at least 1; got 0" in refused("table4", "--steps", "0")
    assert "`--seeds` must have different values; got 1 1." in refused("table4", "--seeds", 1, 1)
    assert "`--seeds` must be a number >= 0; got -1." in refused("table4", "--seeds", -1)
    assert "files of stl10; got None" in refused("table4")
    only = ("--only", "mnist-fashion-mnist", "--data-dir", "data")
    assert "not found in data/mnist" in refused("table4", *only)
    assert not (tmp_path / "runs").exists()


def test_damaged_and_other_trainings_are_refused_untouched(refused, out, tmp_path):
    before = states(out)
    line = refused(*QUICK, "--out", out, "--steps", "5")
    assert "holds a training of other settings (`--steps` is 2 there, 5 now)" in line
    assert states(out) == before
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    kept(copy, FILES[0]).write_text("{}")
    line = refused(*QUICK, "--out", copy)
    assert f"{FILES[0]}-seed0.json is damaged" in line
