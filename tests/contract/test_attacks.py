"""What holds for every attack that `taut.attacks` exports."""

import logging
from dataclasses import dataclass, fields
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from taut import attacks
from taut.attacks import (
    AbstractAttack,
    AbstractSmallestAttack,
    _base,
    attack,
    methods,
    plan,
    smallest_attack,
)

pytest.importorskip("foolbox")
pytest.importorskip("torchattacks")

QUICK = {"steps": 20, "queries": 20, "searches": 2}
every_attack = pytest.mark.parametrize("kind", methods())
every_search = pytest.mark.parametrize(
    "kind", [kind for kind, cls in methods().items() if issubclass(cls, AbstractSmallestAttack)]
)


def quick(kind: str) -> AbstractAttack:
    """The attack with few steps."""
    names = [field.name for field in fields(methods()[kind])]
    return methods()[kind](**{name: n for name, n in QUICK.items() if name in names})


def curved() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 5)]
    return nn.Sequential(*layers).double()


def drawn(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, 6, 6, generator=generator, dtype=torch.float64)


def predict(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images).argmax(1)


@every_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_stay_in_ball_and_box(kind, dtype):
    model, images = curved().to(dtype), drawn(8).to(dtype)
    images[:2] = images[:2].round()
    labels = predict(model, images)
    for eps in (1e-6, 0.05, 0.7, 3.0):
        result = attack(model, images, labels, eps, quick(kind))
        moved = result.adversarial
        assert moved.dtype == dtype
        assert ((moved >= 0) & (moved <= 1)).all()
        exact = (moved.double() - images.double()).flatten(1).norm(dim=1)
        assert (exact <= eps).all()
        torch.testing.assert_close(result.distance, exact, rtol=1e-12, atol=0)
        assert torch.equal(result.success, predict(model, moved) != labels)


@every_attack
def test_runs_repeat_and_leave_no_trace(kind, capfd):
    model, images = curved().train(), drawn(4)
    labels = predict(model, images)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    random, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    handlers = list(logging.getLogger().handlers)
    first = attack(model, images, labels, 0.3, quick(kind))
    with torch.no_grad():
        second = attack(model, images, labels, 0.3, quick(kind))
    assert torch.equal(first.adversarial, second.adversarial)
    assert torch.equal(torch.get_rng_state(), random)
    assert np.array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002
    assert logging.getLogger().handlers == handlers
    assert model.training
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    assert capfd.readouterr() == ("", "")


@every_attack
def test_of_several_eps_each_image_falls_at_the_smallest(kind):
    """What the smallest breaks is not attacked again; at the others, what is left."""
    model, images = curved(), drawn(6)
    labels = predict(model, images)
    labels[0] = (labels[0] + 1) % 5
    several = attack(model, images, labels, ("7/10", 0.2, 1.5), quick(kind))
    assert several.eps == ("7/10", 0.2, 1.5)
    first = attack(model, images, labels, 0.2, quick(kind))
    hits, distance = first.success, several.distance
    torch.testing.assert_close(several.adversarial[hits], first.adversarial[hits])
    assert (distance[hits] <= 0.2).all()
    assert (distance[several.success & ~hits] > 0.2).all()
    assert several.attacked_accuracy == {
        eps: 1 - (several.success & (distance <= radius)).double().mean().item()
        for eps, radius in (("7/10", 0.7), (0.2, 0.2), (1.5, 1.5))
    }
    assert several.attacked_accuracy[0.2] == first.accuracy
    assert several.accuracy == several.attacked_accuracy[1.5]


@every_search
def test_a_model_that_never_errs_is_not_broken(kind):
    """No start, no noise, no step: the images come back, and nothing is raised."""
    model, images = curved(), drawn(3)
    model[3].bias.data[1] += 1e6
    result = smallest_attack(model, images, torch.ones(3).long(), quick(kind))
    assert not result.success.any()


@every_attack
def test_counts_are_at_least_1(kind):
    cls = methods()[kind]
    for name in {field.name for field in fields(cls)} & {*QUICK, "restarts"}:
        for wrong in (0, -1):
            with pytest.raises(
                ValueError, match=rf"^`{name}` must be an integer of at least 1; got"
            ):
                cls(**{name: wrong})


@every_attack
def test_a_missing_library_is_named_with_its_extra(kind, monkeypatch):
    monkeypatch.setattr(_base, "find_spec", lambda name: None)
    if methods()[kind].library is None:
        assert quick(kind)
    else:
        with pytest.raises(ImportError, match=r'needs (foolbox|torchattacks): .*"taut\[attacks\]"'):
            attack(curved(), drawn(1), torch.zeros(1).long(), 0.1, kind)


def test_command_line_knows_every_attack():
    from taut.cli.attack import Method

    assert set(get_args(Method)) == {*methods(), "paper", "all"}


def test_a_new_attack_needs_an_export_only(monkeypatch):
    @dataclass(frozen=True)
    class Brighter(AbstractAttack):
        """Adds the same to all pixels."""

        kind = "brighter"
        size: float = _base.positive(0.5)

        def perturb(self, objective, images, labels, radius):
            return images + self.size

    monkeypatch.setattr(attacks, "Brighter", Brighter, raising=False)
    monkeypatch.setattr(attacks, "__all__", [*attacks.__all__, "Brighter"])
    model, images = curved(), drawn(3)
    result = attack(model, images, predict(model, images), 0.1, "brighter", size=0.25)
    assert (result.distance > 0).all()
    assert [trial.method for trial in plan(["brighter"])] == ["brighter"]
    assert "brighter" in [trial.method for trial in plan(["all"])]
    with pytest.raises(ValueError, match="`size` must be positive"):
        plan(["brighter"], options={"size": 0.0})
