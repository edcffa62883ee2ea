"""The best of several attacks, attacks held against a certificate, and attacks kept in a file."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

import taut
from taut.attacks import (
    PAPER,
    Attacked,
    AttackResult,
    AttackTrial,
    Target,
    attack,
    hold,
    plan,
    read_attacks,
    run_trial,
    smallest_attack,
    strongest,
)
from taut.attacks import _trials as trials
from taut.attacks._kept import write_attacks
from taut.certification import Certificate
from taut.program import LipschitzBound

DOUBLE = torch.float64


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


def grey(count: int) -> torch.Tensor:
    return 0.4 + 0.2 * torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def target(count: int = 10, falsify: float = 1.0) -> Target:
    """A linear model with its certificate, whose constants are divided by `falsify`."""
    model, images = linear(), grey(count)
    with torch.no_grad():
        labels = model(images).argmax(1)
    certified = taut.certify(model, images, labels)
    proof = certified.certificate
    bound = LipschitzBound(
        proof.bound.value / falsify, proof.bound.layers, proof.bound.pairwise / falsify
    )
    proof = replace(proof, bound=bound)
    radius = proof.radius(proof.logits(images), labels, images)
    return Target(model, images, replace(certified, certificate=proof, radius=radius))


def result(success: list[bool], distance: list[float]) -> AttackResult:
    moved = torch.zeros(len(success), 1, 1, 1)
    return AttackResult(moved, torch.tensor(success), torch.tensor(distance).double())


def test_strongest_is_the_best_of_a_slow_loop():
    draw = torch.Generator().manual_seed(0)
    results = {
        name: AttackResult(
            torch.zeros(30, 1, 1, 1),
            torch.rand(30, generator=draw) < 0.5,
            torch.rand(30, generator=draw).double(),
        )
        for name in ("a", "b", "c")
    }
    for eps in (None, 0.4, "1/3"):
        limit = 2.0 if eps is None else (0.4 if eps == 0.4 else 1 / 3)
        found = strongest(results, eps)
        for i in range(30):
            hits = {
                name: float(r.distance[i])
                for name, r in results.items()
                if r.success[i] and r.distance[i] <= limit
            }
            best = min(hits, key=hits.__getitem__) if hits else None
            assert found.method[i] == best
            assert bool(found.success[i]) == bool(hits)
            assert float(found.distance[i]) == (hits[best] if hits else float("inf"))
        for name, r in results.items():
            hit = [bool(s) and float(d) <= limit for s, d in zip(r.success, r.distance)]  # noqa: B905
            assert found.accuracies[name] == pytest.approx(1 - sum(hit) / 30)
        assert found.accuracy == pytest.approx(sum(m is None for m in found.method) / 30)
        assert found.accuracy <= min(found.accuracies.values())


def test_the_first_images_are_those_of_shorter_results():
    few, many = result([False, True], [0.0, 0.3]), result([True, False, True], [0.2, 0.0, 0.1])
    found = strongest({"few": few, "many": many}, first=2)
    assert found.method == ("many", "few")
    assert found.accuracies == {"few": 0.5, "many": 0.5}
    with pytest.raises(ValueError, match="few of 2, many of 3"):
        strongest({"few": few, "many": many}, first=3)


@pytest.mark.parametrize(
    "results", [{}, {"a": result([True], [0.1]), "b": result([True] * 2, [0.1] * 2)}]
)
def test_strongest_refuses_results_of_other_images(results):
    with pytest.raises(ValueError, match="`results` must be of one or more attacks on the same"):
        strongest(results)


@pytest.mark.parametrize("eps", ["abc", "1e400", "1/0", 0])
def test_strongest_refuses_an_eps_that_is_no_positive_number(eps):
    with pytest.raises(ValueError, match=rf"^`eps` must be a positive .*; got eps={eps!r}\.$"):
        strongest({"a": result([True], [0.1])}, eps)


def test_honest_certificates_hold():
    aim = target()
    for method in ("pgd", "fgsm"):
        found = attack(aim.model, aim.images, aim.certified.labels, 0.5, method)
        assert found.success.any()
        assert not hold(found, aim.images, aim.certified, method=method).any()


def test_a_broken_certificate_is_named_with_image_attack_distance_and_radius():
    aim = target(falsify=1.5)
    found = smallest_attack(aim.model, aim.images, aim.certified.labels)
    inside = (found.distance < aim.certified.radius).nonzero().flatten().tolist()
    assert inside
    i = inside[0]
    words = (
        rf"test image {i} is misclassified by ddn at a distance of {float(found.distance[i]):.6g}, "
        rf"within its certified radius of {float(aim.certified.radius[i]):.6g} "
        rf"\({len(inside)} in all\)"
    )
    with pytest.raises(RuntimeError, match=words):
        hold(found, aim.images, aim.certified, method="ddn")
    part = AttackResult(found.adversarial[i:], found.success[i:], found.distance[i:])
    with pytest.raises(RuntimeError, match=f"test image {i} "):
        hold(part, aim.images[i:], aim.certified, places=range(i, len(found.success)))


def test_what_the_certified_program_withstands_is_float32_only(monkeypatch):
    """The model that ran gives way; the certificate's own logits do not."""
    aim = target(falsify=1.5)
    found = smallest_attack(aim.model, aim.images, aim.certified.labels)
    steady = nn.functional.one_hot(aim.certified.labels, 3).double()
    inside = found.distance < aim.certified.radius
    assert inside.any()
    monkeypatch.setattr(Certificate, "logits", lambda self, x: steady[inside])
    assert torch.equal(hold(found, aim.images, aim.certified), inside)


def test_what_only_the_certified_program_errs_on_breaks_a_certificate(monkeypatch):
    """The model that ran withstands; what counts is the program that the certificate is of."""
    aim = target()
    labels = aim.certified.labels
    other = nn.functional.one_hot((labels + 1) % 3, 3).double()
    monkeypatch.setattr(Certificate, "logits", lambda self, x: other[: len(x)])
    unmoved = AttackResult(aim.images, labels < 0, torch.zeros(len(labels)).double())
    with pytest.raises(RuntimeError, match=r"test image 0 .*\(10 in all\)"):
        hold(unmoved, aim.images, aim.certified)


def test_a_success_at_the_radius_counts_and_one_beyond_does_not():
    """The distance is taken of the images, exactly but for one rounding up."""
    aim = target(1)
    moved = aim.images.double()
    moved[0, 0, 0, 0] += 0.25
    wrong = (aim.model(moved.float()).argmax(1) + 1) % 3
    for radius, broken in ((0.25 * (1 + 1e-12), True), (0.25 * (1 - 1e-12), False)):
        certified = replace(
            aim.certified, radius=torch.tensor([radius], dtype=DOUBLE), labels=wrong
        )
        # A distance that the attack got wrong makes no difference.
        found = AttackResult(moved, torch.tensor([True]), torch.tensor([9.0], dtype=DOUBLE))
        if broken:
            with pytest.raises(RuntimeError, match="A certificate is broken"):
                hold(found, aim.images.double(), certified)
        else:
            assert not hold(found, aim.images.double(), certified).any()


def test_images_without_a_radius_break_nothing():
    aim = target()
    wrong = (aim.certified.labels + 1) % 3
    certified = taut.certify(aim.model, aim.images, wrong)
    found = attack(aim.model, aim.images, wrong, 0.1)
    assert found.success.all()
    assert not hold(found, aim.images, certified).any()


def test_another_number_of_images_is_refused():
    aim = target()
    found = attack(aim.model, aim.images[:1], aim.certified.labels[:1], 0.1, "fgsm")
    with pytest.raises(ValueError, match="and 10 certified ones; got"):
        hold(found, aim.images[:1], aim.certified)


def test_a_file_gives_back_what_was_written(tmp_path):
    aim, path = target(), tmp_path / "attacks.json"
    first = run_trial(AttackTrial("fgsm", "fgsm"), aim, "0.3", path)
    second = run_trial(AttackTrial("ddn", "ddn", {"steps": 20}), aim, "0.3", path)
    for kept, made in zip(read_attacks(path), (first, second), strict=True):
        for name, value in vars(made).items():
            other = getattr(kept, name)
            same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
            assert same, name
    assert second.options == {"steps": 20, "gamma": 0.05}
    direct = smallest_attack(aim.model, aim.images, aim.certified.labels, steps=20)
    assert torch.equal(second.distance, direct.distance)
    near = (direct.distance <= 0.3).double().mean().item()
    assert second.survived("0.3") == pytest.approx(1 - near)
    assert read_attacks(path, aim.weights_sha256) != []
    assert read_attacks(path, "0" * 64) == []


@dataclass
class Counted:
    """Counts what is attacked, and stops after some batches."""

    true: object
    stop_after: int = 1000
    images: int = 0
    batches: int = 0

    def __call__(self, model, images, *args, **options):
        if self.batches == self.stop_after:
            raise KeyboardInterrupt
        self.batches += 1
        self.images += len(images)
        return self.true(model, images, *args, **options)


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr(trials, "BATCH", 4)
    counted = Counted(trials.attack)
    monkeypatch.setattr(trials, "attack", counted)
    return counted


def test_a_stopped_attack_goes_on_where_it_was(tmp_path, counted):
    aim, trial, path = target(), AttackTrial("pgd", "pgd", {"steps": 5}), tmp_path / "attacks.json"
    counted.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial, aim, "0.3", path)
    assert [len(a) for a in read_attacks(path)] == [8]
    counted.stop_after, told = 1000, []
    resumed = run_trial(trial, aim, "0.3", path, told.append)
    assert counted.images == 10
    assert told == [8, 10]
    whole = run_trial(trial, aim, "0.3", tmp_path / "whole.json")
    assert torch.equal(resumed.success, whole.success)
    assert torch.equal(resumed.distance, whole.distance)


def test_what_is_kept_is_not_run_again_and_more_images_are_added(tmp_path, counted):
    aim, path = target(), tmp_path / "attacks.json"
    few = run_trial(AttackTrial("fgsm", "fgsm", limit=6), aim, "0.3", path)
    assert counted.images == len(few) == 6
    before = path.read_bytes()
    fewer = run_trial(AttackTrial("fgsm", "fgsm", limit=5), aim, "0.3", path)
    assert torch.equal(fewer.distance, few.distance[:5])
    assert counted.images == 6
    assert path.read_bytes() == before
    assert len(run_trial(AttackTrial("fgsm", "fgsm"), aim, "0.3", path)) == 10
    assert counted.images == 10
    run_trial(AttackTrial("fgsm", "fgsm"), aim, "0.2", path)
    run_trial(AttackTrial("pgd", "pgd", {"steps": 2}), aim, "0.2", path)
    assert counted.images == 30
    assert len(read_attacks(path)) == 3


def test_other_weights_or_images_are_attacked_afresh(tmp_path, counted):
    aim, trial, path = target(), AttackTrial("fgsm", "fgsm"), tmp_path / "attacks.json"
    run_trial(trial, aim, "0.3", path)
    flipped = aim.images.flip(0)
    again = Target(aim.model, flipped, taut.certify(aim.model, flipped, aim.certified.labels))
    run_trial(trial, again, "0.3", path)
    assert counted.images == 20
    assert len(read_attacks(path)) == 1
    with torch.no_grad():
        aim.model[1].bias += 1e-3
    other = Target(aim.model, aim.images, taut.certify(aim.model, aim.images, aim.certified.labels))
    run_trial(trial, other, "0.3", path)
    assert counted.images == 30
    assert [a.weights_sha256 for a in read_attacks(path)] == [other.weights_sha256]


def test_a_broken_certificate_is_not_kept_as_a_result(tmp_path):
    with pytest.raises(RuntimeError, match="misclassified by nearest at a distance"):
        run_trial(
            AttackTrial("nearest", "ddn"), target(falsify=1.5), "0.1", tmp_path / "attacks.json"
        )
    assert not (tmp_path / "attacks.json").exists()


def test_a_search_for_the_nearest_error_runs_once_for_all_eps(tmp_path, monkeypatch):
    aim, trial, path = target(), AttackTrial("ddn", "ddn", {"steps": 5}), tmp_path / "attacks.json"
    first = run_trial(trial, aim, "0.3", path)
    assert first.eps is None
    monkeypatch.setattr(trials, "smallest_attack", None)
    assert torch.equal(run_trial(trial, aim, "0.1", path).distance, first.distance)


def test_a_generator_is_refused_for_it_cannot_be_kept(tmp_path):
    trial = AttackTrial("pgd", "pgd", {"generator": torch.Generator()})
    with pytest.raises(ValueError, match="`generator` cannot be kept in a file"):
        run_trial(trial, target(), "0.1", tmp_path / "attacks.json")


def test_paper_asks_for_its_protocol():
    assert [(t.method, dict(t.options), t.limit) for t in plan(["paper"])] == [
        ("pgd", {"steps": 200, "step_size": 0.01}, None),
        ("fgsm", {}, None),
        ("boundary", {}, 100),
        ("pointwise", {}, 100),
    ]
    assert plan(["paper"]) == PAPER


def test_all_is_every_method():
    assert [t.method for t in plan(["all"])] == list(taut.attacks.methods())


def test_limits_are_for_all_methods_or_for_one():
    def limits(methods, *given):
        return {t.name: t.limit for t in plan(methods, given)}

    both = ["pgd", "boundary"]
    assert limits(both) == {"pgd": 1000, "boundary": 100}
    assert limits(both, "2000") == {"pgd": 2000, "boundary": 100}
    assert limits(both, "20") == {"pgd": 20, "boundary": 20}
    assert limits(both, "20", "boundary=300") == {"pgd": 20, "boundary": 300}
    assert limits(["paper", "fgsm"], "fgsm=7")["fgsm"] == 7
    two = limits(["paper", "pgd"], "pgd-paper=9")
    assert (two["pgd-paper"], two["pgd"]) == (9, 1000)
    assert limits(["pgd", "pgd"]) == {"pgd": 1000}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["magic"],), "`method` must be one of .*'magic'"),
        ((["pgd"], ["0"]), "`limit` must be a number of at least 1.*'0'"),
        ((["pgd"], ["many"]), "`limit`.*'many'"),
        ((["pgd"], ["pgd=-1"]), "`limit`"),
        ((["pgd"], ["boundary=3"]), "`limit` must name a method that is run .*; got boundary"),
        ((["pgd"], [], {"stepz": 3}), 'Options of "pgd" must be among'),
        ((["pgd"], [], {"steps": 0}), "`steps`"),
    ],
)
def test_wrong_plans_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        plan(*arguments)


DAMAGE = {
    "cut": lambda text: text[:-30],
    "other": lambda text: text.replace("taut-attacks", "taut-certificate"),
    "version": lambda text: text.replace('"version": 1', '"version": 2'),
    "short": lambda text: text.replace('"success": [', '"success": [true, '),
    "flag": lambda text: text.replace('"float32_only": [false', '"float32_only": [0'),
    "missing": lambda text: text.replace('"eps"', '"epz"'),
    "list": lambda text: "[]",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named(damage, tmp_path):
    path = tmp_path / "attacks.json"
    run_trial(AttackTrial("fgsm", "fgsm"), target(), "0.3", path)
    text = path.read_text()
    path.write_text(DAMAGE[damage](text))
    assert path.read_text() != text
    with pytest.raises(ValueError, match=r"attacks\.json is damaged and cannot be read"):
        read_attacks(path)


def test_numbers_that_json_lacks_are_not_written(tmp_path):
    one = torch.zeros(1, dtype=torch.bool)
    found = Attacked(
        method="fgsm",
        options={},
        eps="0.3",
        weights_sha256="",
        images_sha256="",
        success=one,
        distance=torch.tensor([torch.nan]).double(),
        float32_only=one,
    )
    with pytest.raises(ValueError, match="JSON"):
        write_attacks(tmp_path / "attacks.json", [found])
    assert not Path(tmp_path / "attacks.json").exists()
    write_attacks(tmp_path / "attacks.json", [replace(found, distance=torch.ones(1).double())])
    assert json.loads((tmp_path / "attacks.json").read_text())["attacks"][0]["distance"] == [1.0]
