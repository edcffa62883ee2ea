"""Attacks of other libraries: exact on linear models, in ball and box, repeatable, traceless."""

import pytest
import torch
from torch import nn

from taut.attacks import (
    AutoAttack,
    BoundaryAttack,
    CarliniWagner,
    DeepFool,
    PointwiseAttack,
    _foreign,
    attack,
    smallest_attack,
)

pytest.importorskip("foolbox")
pytest.importorskip("torchattacks")

SMALLEST = {
    "ddn": {"steps": 60},
    "deepfool": {},
    "carlini-wagner": {"steps": 300, "searches": 5, "step_size": 0.01},
    "boundary": {"steps": 300},
    "pointwise": {"steps": 50},
}
QUICK = {
    "deepfool": {"steps": 5},
    "carlini-wagner": {"steps": 10, "searches": 2},
    "boundary": {"steps": 30},
    "pointwise": {"steps": 20},
    "autoattack": {"steps": 4, "queries": 20},
}
EXACT = ("ddn", "deepfool", "carlini-wagner")


def linear(classes: int = 4, seed: int = 7, side: int = 6) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(side * side, classes)).double()


def curved(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 5)]
    return nn.Sequential(*layers).double()


def grey(count: int, side: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.4 + 0.2 * torch.rand(count, 1, side, side, generator=generator, dtype=torch.float64)


def predict(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images).argmax(1)


def planted(model: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    """Exact distances to the boundary of a linear model: to the nearest of the hyperplanes."""
    weight, out = model[1].weight.detach(), []
    with torch.no_grad():
        logits = model(images)
    for image, row in zip(images, logits, strict=True):
        y = int(row.argmax())
        normals = {j: weight[y] - weight[j] for j in range(len(row)) if j != y}
        apart = {j: float((row[y] - row[j]) / n.norm()) for j, n in normals.items()}
        j = min(apart, key=apart.__getitem__)
        foot = image.flatten() - apart[j] * normals[j] / normals[j].norm()
        assert (foot.clamp(0, 1) == foot).all(), "the boundary must lie inside the pixel box"
        out.append(apart[j])
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize(("classes", "seed"), [(2, 0), (4, 7)])
@pytest.mark.parametrize("method", EXACT)
def test_planted_distances_are_found_to_a_thousandth(method, classes, seed):
    model, images = linear(classes, seed), grey(5)
    exact = planted(model, images)
    result = smallest_attack(model, images, predict(model, images), method, **SMALLEST[method])
    assert result.success.all()
    assert (result.distance >= exact * (1 - 1e-12)).all()
    assert (result.distance <= exact * 1.001).all()


def test_deepfool_looks_at_every_class_where_others_follow_the_runner_up():
    """The nearest boundary is not always that of the runner-up."""
    model, images = linear(seed=1), grey(5)
    labels, exact = predict(model, images), planted(model, images)
    deepfool = smallest_attack(model, images, labels, "deepfool")
    assert (deepfool.distance <= exact * 1.001).all()
    assert predict(model, deepfool.adversarial).unique().numel() == 2
    runner_up = smallest_attack(model, images, labels, "ddn", steps=60)
    assert (runner_up.distance > exact * 1.01).sum() == 2


@pytest.mark.parametrize("method", ["boundary", "pointwise"])
def test_attacks_on_answers_alone_come_near_from_above(method):
    model, images = linear(), grey(5)
    exact = planted(model, images)
    result = smallest_attack(model, images, predict(model, images), method, **SMALLEST[method])
    assert result.success.all()
    assert (result.distance >= exact * (1 - 1e-12)).all()
    assert (result.distance <= exact * 6).all()  # the way along one of 36 axes at worst


def test_pointwise_leaves_no_pixel_that_could_go_back():
    model, images = linear(2), grey(3)
    labels = predict(model, images)
    found = smallest_attack(model, images, labels, "pointwise", steps=50).adversarial
    for image, moved, label in zip(images, found, labels, strict=True):
        for place in (moved != image).nonzero().tolist():
            back = moved.clone()
            back[tuple(place)] = image[tuple(place)]
            assert predict(model, back[None])[0] == label


@pytest.mark.parametrize("method", [*EXACT, "autoattack"])
def test_fixed_radius_splits_at_the_planted_distance(method):
    model, images = linear(), grey(2)
    labels, exact = predict(model, images), planted(model, images)
    options = SMALLEST.get(method, {"steps": 20, "queries": 10})
    for i, distance in enumerate(exact.tolist()):
        one = (model, images[i : i + 1], labels[i : i + 1])
        assert attack(*one, distance * 1.002, method, **options).success.all()
        assert not attack(*one, distance * (1 - 1e-6), method, **options).success.any()


@pytest.mark.parametrize("method", ["boundary", "pointwise", "autoattack"])
def test_seed_decides_what_is_drawn(method):
    model, images = curved(), grey(3)
    labels = predict(model, images)

    def run(seed: int) -> torch.Tensor:
        options = QUICK[method] | {"seed": seed}
        return attack(model, images, labels, 1.5, method, **options).adversarial

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_boundary_attack_starts_from_images_where_noise_is_one_class():
    """All noise is of class 0; of the images some are not."""
    model, images = linear(2), grey(4)
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.zeros(36), torch.ones(36)]).double())
        model[1].bias.copy_(torch.tensor([0.0, -30.0]))
    images[:2] = 0.9
    labels = predict(model, images)
    assert labels.tolist() == [1, 1, 0, 0]
    result = smallest_attack(model, images, labels, "boundary", steps=300)
    assert result.success.all()
    assert (result.distance >= planted(model, images) * (1 - 1e-12)).all()


def test_parts_of_autoattack_run_one_after_the_other(monkeypatch):
    """Each on what the ones before it left, with the steps asked for."""
    seen = []

    class Part:
        def __init__(self, name, broken, options):
            self.name, self.broken, self.options = name, broken, options

        def __call__(self, images, labels):
            seen.append((self.name, len(images), self.options))
            moved = images.clone()
            moved[: self.broken] = 1 - moved[: self.broken]
            return moved

    class Library:
        APGD = staticmethod(lambda model, **options: Part("APGD", 1, options))
        APGDT = staticmethod(lambda model, **options: Part("APGDT", 0, options))
        FAB = staticmethod(lambda model, **options: Part("FAB", 2, options))
        Square = staticmethod(lambda model, **options: Part("Square", 1, options))

    monkeypatch.setattr(_foreign, "quiet_import", lambda name: Library)
    model, images = linear(), grey(4)
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.ones(36), *torch.zeros(3, 36)]).double())
        model[1].bias.copy_(torch.tensor([-18.0, 0.0, -1.0, -1.0]))
    images = images + (0.55 - images.mean((1, 2, 3), keepdim=True))
    labels = predict(model, images)
    assert labels.tolist() == [0] * 4
    result = attack(model, images, labels, 3.0, "autoattack", steps=7, queries=9)
    assert [(name, count) for name, count, _ in seen] == [
        ("APGD", 4),
        ("APGDT", 3),
        ("FAB", 3),
        ("Square", 1),
    ]
    assert [o.get("steps") for *_, o in seen] == [7, 7, 7, None]
    assert seen[-1][2]["n_queries"] == 9
    assert all(o["eps"] == 3.0 and o["norm"] == "L2" for *_, o in seen)
    assert result.success.all()


def auto(model: nn.Module, images: torch.Tensor) -> None:
    attack(model, images, predict(model, images), 0.1, "autoattack")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DeepFool(steps=0), "`steps` must be an integer of at least 1; got steps=0"),
        (lambda: DeepFool(overshoot=-0.1), "`overshoot`"),
        (lambda: CarliniWagner(searches=0), "`searches`"),
        (lambda: CarliniWagner(step_size=0.0), "`step_size`"),
        (lambda: CarliniWagner(initial_const=float("nan")), "`initial_const`"),
        (lambda: BoundaryAttack(steps=0), "`steps`"),
        (lambda: PointwiseAttack(steps=-1), "`steps`"),
        (lambda: AutoAttack(steps=0), "`steps`"),
        (lambda: AutoAttack(queries=0), "`queries`"),
        (lambda: auto(linear(3), grey(2)), "`model` must have 4 classes or more .*; got 3"),
        (lambda: auto(linear(side=4), grey(2, 4)), r"n >= 5 .*; got \(2, 1, 4, 4\)"),
        (lambda: auto(linear(), grey(2).reshape(2, 1, 4, 9)), r"n >= 5 .*; got \(2, 1, 4, 9\)"),
        (
            lambda: smallest_attack(linear(), grey(2), torch.zeros(2).long(), "autoattack"),
            "`method` must look for the smallest distance; AutoAttack takes one: use `attack`",
        ),
        (
            lambda: smallest_attack(linear(), grey(2), torch.zeros(2).long(), "deepfool", seed=1),
            'Options of "deepfool" must be among steps, overshoot; got `seed',
        ),
    ],
)
def test_wrong_use_is_refused_in_one_sentence(make, words):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=words):
        make()
