"""Attacks against closed forms, the ball and the box, and the caller's model."""

import copy
import subprocess
import sys
from fractions import Fraction

import pytest
import torch
from torch import nn

from taut.attacks import PGD, AbstractAttack, attack, methods, smallest_attack, strongest


def linear(seed: int = 0, pixels: int = 12, classes: int = 2) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()


def curved(seed: int = 0, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, classes)]
    return nn.Sequential(*layers).double()


def grey(count: int, seed: int = 0, low: float = 0.4, high: float = 0.6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(count, 3, 2, 2, generator=generator, dtype=torch.float64)
    return low + (high - low) * drawn


def predict(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images).argmax(1)


def boundary_distance(model: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    """Exact distance to the boundary of a linear model with two classes."""
    weight = model[1].weight.detach()
    with torch.no_grad():
        logits = model(images)
    return (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).norm()


@pytest.mark.parametrize("method", ["pgd", "fgsm", "ddn"])
def test_linear_model_falls_at_the_exact_distance(method):
    model, images = linear(), grey(6)
    labels = predict(model, images)
    exact = boundary_distance(model, images)
    assert exact.max() < 0.3, "the boundary must lie inside the pixel box"
    for i, distance in enumerate(exact.tolist()):
        one = (model, images[i : i + 1], labels[i : i + 1])
        assert attack(*one, distance * 1.001, method=method).success.all()
        assert not attack(*one, distance * (1 - 1e-9), method=method).success.any()


def test_smallest_attack_reaches_the_exact_distance():
    model, images = linear(1), grey(8, seed=1)
    result = smallest_attack(model, images, predict(model, images))
    assert result.success.all()
    torch.testing.assert_close(result.distance, boundary_distance(model, images), rtol=3e-6, atol=0)
    assert (result.distance > boundary_distance(model, images) * (1 - 1e-12)).all()


def test_smallest_attack_is_near_the_best_of_a_grid():
    """Two pixels: the nearest other class by brute force over the square."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)]
    model = nn.Sequential(*layers).double()
    model[1].weight.data *= 4
    axis = torch.linspace(0, 1, 401, dtype=torch.float64)
    square = torch.cartesian_prod(axis, axis)[:, None, None, :]
    classes = predict(model, square)
    images = square[torch.randperm(len(square))[:20]]
    labels = predict(model, images)
    result = smallest_attack(model, images, labels)
    apart = (images[:, None] - square[None]).flatten(2).norm(dim=2)
    brute = apart.masked_fill(classes[None] == labels[:, None], torch.inf).amin(1)
    assert (result.distance[result.success] >= brute[result.success] - 0.004).all()
    assert (result.success & (result.distance <= brute * 1.05 + 1e-3)).double().mean() >= 0.8


def test_success_is_judged_by_the_driver():
    """A method that claims the moon is clipped and judged on what is left."""
    model, images = linear(), grey(5)
    labels = predict(model, images)

    class Liar(AbstractAttack):
        def perturb(self, objective, images, labels, radius):
            return images + 1e6

    result = attack(model, images, labels, 1e-4, method=Liar())
    assert (result.distance <= 1e-4).all()
    assert not result.success.any()


def test_wrong_points_are_already_broken():
    model, images = linear(), grey(6)
    labels = 1 - predict(model, images)
    for result in (attack(model, images, labels, 0.1), smallest_attack(model, images, labels)):
        assert result.success.all()
        assert result.accuracy == 0
        assert torch.equal(result.distance, torch.zeros(6, dtype=torch.float64))
        assert torch.equal(result.adversarial, images)


def test_fgsm_is_one_step_along_the_gradient():
    model, images = curved(), grey(6)
    labels = predict(model, images)
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    for i in range(6):
        others = [logits[i, j] for j in range(4) if j != labels[i]]
        loss = torch.stack(others).max() - logits[i, labels[i]]
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        step = 0.05 * gradient[i] / gradient[i].norm()
        moved = attack(model, images, labels, 0.05, method="fgsm").adversarial[i]
        torch.testing.assert_close(moved, images[i] + step, rtol=0, atol=1e-9)


def test_stronger_settings_break_no_less():
    torch.manual_seed(3)
    model, images = curved(3), grey(40, seed=3, low=0.1, high=0.9)
    labels = predict(model, images)
    nearest = smallest_attack(model, images, labels).distance
    eps = float(nearest.median())
    one = attack(model, images, labels, eps, method="fgsm").accuracy
    many = attack(model, images, labels, eps, steps=50, restarts=3).accuracy
    assert many <= one
    assert abs(many - 0.5) < 0.1, "PGD and the smallest attack should agree on the median"


def test_model_is_left_as_it_was():
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)]
    model = nn.Sequential(*layers).double()
    before = copy.deepcopy(model.state_dict())
    model(grey(4)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    before = copy.deepcopy(model.state_dict())
    images, labels = grey(8).requires_grad_(), torch.arange(8) % 3
    random = torch.get_rng_state()
    attack(model, images, labels, 0.3, steps=5)
    smallest_attack(model, images, labels, steps=5)
    assert model.training
    assert images.grad is None
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad
        assert torch.equal(parameter.grad, gradients[name])


def test_grad_mode_of_the_caller_does_not_matter():
    model, images = curved(), grey(6)
    labels = predict(model, images)
    plain = attack(model, images, labels, 0.3, steps=10)
    with torch.no_grad():
        quiet = attack(model, images, labels, 0.3, steps=10)
    with torch.inference_mode():
        still = attack(model, images.clone(), labels, 0.3, steps=10)
    assert torch.equal(plain.adversarial, quiet.adversarial)
    assert torch.equal(plain.adversarial, still.adversarial)


def test_generator_decides_the_starts():
    model, images = curved(), grey(6)
    labels = predict(model, images)

    def run(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return attack(model, images, labels, 0.01, steps=1, generator=generator).adversarial

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_eps_is_read_as_written():
    model, images = linear(), grey(6)
    labels = predict(model, images)
    results = [attack(model, images, labels, e) for e in ("36/255", Fraction(36, 255), 36 / 255)]
    assert all(torch.equal(r.adversarial, results[0].adversarial) for r in results)


def test_several_eps_give_the_exact_shares():
    model, images = linear(), grey(8)
    labels = predict(model, images)
    exact = boundary_distance(model, images)
    radii = sorted((float(d) * 1.001 for d in exact[[1, 4, 6]]), reverse=True)
    result = attack(model, images, labels, radii, steps=100)
    assert result.attacked_accuracy == {eps: (exact > eps).double().mean().item() for eps in radii}
    assert len(set(result.attacked_accuracy.values())) == 3
    one = attack(model, images, labels, [str(radii[0])], steps=100)
    assert torch.equal(one.success, result.success)


def test_results_print_as_three_lines():
    model, images = linear(), grey(6)
    labels = predict(model, images)
    labels[0] = 1 - labels[0]
    result = attack(model, images, labels, ("8/255", 3), "fgsm")
    lines = repr(result).splitlines()
    assert lines[0] == "AttackResult: fgsm, eps 8/255, 3"
    assert lines[1] == "  misclassified: 6 of 6 images (100.00 %)"
    middle, largest = result.distance.median(), result.distance.max()
    assert lines[2] == f"  at a distance of: {middle:.4g} in the median, {largest:.4g} at most"
    assert len(lines) == 3
    page = result._repr_html_()
    assert page.count("<tr>") == 3
    assert "6 of 6 images (100.00 %)" in page
    nearest = repr(smallest_attack(model, images, labels)).splitlines()
    assert nearest[0] == "AttackResult: ddn, any distance"
    assert repr(strongest({"a": result, "b<": result})).startswith("Strongest: of a, b<\n")
    assert "b&lt;" in strongest({"a": result, "b<": result})._repr_html_()
    assert repr(attack(model, images[:0], labels[:0], 1)).endswith("at a distance of: none")


class Noisy(nn.Module):
    """Draws random numbers even in eval mode."""

    def forward(self, x):
        return x.flatten(1)[:, :2] + 0.1 * torch.rand(len(x), 2, dtype=x.dtype)


def test_a_model_that_draws_random_numbers_is_refused():
    with pytest.raises(ValueError, match="`model` must give equal logits for equal images"):
        attack(Noisy(), grey(4), torch.zeros(4).long(), 0.1)


def test_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match="`model` must have its weights in memory"):
        attack(linear().to("meta"), grey(4), torch.zeros(4).long(), 0.1)


class Casting(nn.Module):
    """Takes images in any precision."""

    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x):
        return self.linear(x.double())


def test_images_in_another_precision_are_for_the_model_to_take():
    images = grey(4)
    labels = predict(linear(), images)
    assert attack(Casting(), images.half(), labels, 3, "fgsm").success.all()
    words = "must be torch.float64 on cpu like the parameters of `model`; got torch.float16 on cpu"
    with pytest.raises(ValueError, match=f"^`images` {words}\\.$"):
        attack(linear(), images.half(), labels, 0.1)


WRONG = """
import numpy as np, torch
from taut.attacks import attack
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
right = dict(model=model, images=torch.rand(3, 1, 2, 2), labels=torch.tensor([0, 1, 1]), eps=0.1)
for name, value in [
    ("eps", None), ("eps", [0.1, None]), ("eps", {0.1: 1}),
    ("images", np.ones((3, 1, 2, 2), dtype=object)), ("images", [1.0]),
    ("images", torch.ones(3, 1, 2, 2).byte()), ("images", torch.rand(3)),
    ("labels", torch.eye(2)[[0, 1, 1]]), ("labels", [0, 1, 1]), ("labels", torch.rand(3)),
    ("method", None), ("method", ["pgd"]), ("steps", 2.5), ("steps", "5"), ("steps", None),
    ("step_size", "a"), ("batch_size", 1.5),
]:
    try:
        attack(**right | {name: value})
    except ValueError as error:
        assert str(error).startswith(f"`{name}` must be ") and "\\n" not in str(error), error
        assert "; got " in str(error), error
    else:
        raise AssertionError((name, value))
"""


def test_wrong_types_are_refused_in_one_sentence():
    """In a process of its own: the shape checks of the tests would come first."""
    done = subprocess.run([sys.executable, "-c", WRONG], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


ALONE = """
import sys
EXTRAS = {"foolbox", "torchattacks", "eagerpy", "scipy", "ot", "onnx", "datasets", "PIL"}
EXTRAS |= {"tyro", "rich", "jinja2", "matplotlib", "lightning_fabric"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import taut.attacks
print(*taut.attacks.methods())
"""


def test_import_needs_no_extra():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*methods()]


def test_batches_do_not_change_what_is_found():
    model, images = linear(), grey(7)
    labels = predict(model, images)
    eps = float(boundary_distance(model, images).median())
    whole = attack(model, images, labels, eps * 1.01, method="fgsm")
    parts = attack(model, images, labels, eps * 1.01, method="fgsm", batch_size=2)
    torch.testing.assert_close(whole.adversarial, parts.adversarial)
    assert torch.equal(whole.success, parts.success)


def test_no_images_give_an_empty_result():
    model = linear()
    result = attack(model, grey(0), torch.zeros(0, dtype=torch.long), 0.1)
    assert result.success.shape == (0,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eps": 0.0}, r"`eps` must be a positive number .*got eps=0.0"),
        ({"eps": -1.0}, "`eps`"),
        ({"eps": float("nan")}, "`eps`"),
        ({"eps": "1/0"}, "`eps`"),
        ({"eps": "big"}, "`eps`.*'big'"),
        ({"method": "cw"}, '`method` must be one of "ddn", .*, "autoattack"; got method=\'cw\''),
        (
            {"method": "fgsm", "steps": 3},
            'Options of "fgsm" must be left out: it has none; got `steps',
        ),
        ({"stepz": 3}, "steps, step_size, restarts, generator; got `stepz"),
        ({"method": PGD(), "steps": 3}, r"PGD\(\.\.\.\)"),
        ({"steps": 0}, "`steps`"),
        ({"restarts": 0}, "`restarts`"),
        ({"step_size": 0.0}, "`step_size`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"images": grey(4) + 1}, r"`images` must be in \[0, 1\]"),
        ({"images": grey(4) * torch.nan}, "`images`.*nan"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, "`labels` must lie between 0 and 1"),
        ({"labels": torch.zeros(4)}, "`labels` must be 4 integers"),
        ({"model": nn.Identity()}, "`model` must map"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(change, words):
    given = {"model": linear(), "images": grey(4), "labels": torch.zeros(4).long(), "eps": 0.1}
    given |= change
    with pytest.raises(ValueError, match=words):
        attack(**given)


def test_success_does_not_hang_on_rounding():
    """What is found at the very boundary in float32 is still broken in another batch size."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 4)]
    model, images = nn.Sequential(*layers), grey(200, low=0.0, high=1.0).float()
    labels = predict(model, images)
    result = smallest_attack(model, images, labels)
    one_by_one = torch.cat([predict(model, image[None]) for image in result.adversarial])
    assert torch.equal(one_by_one != labels, result.success)
    assert torch.equal(result.success, result.distance > 0)


class Careless(AbstractAttack):
    """Overwrites what it is given and returns NaN in another precision."""

    def perturb(self, objective, images, labels, radius):
        moved = (images + 1).float()
        moved.flatten(1)[:, 0] = torch.nan
        radius.mul_(100), images.zero_(), labels.zero_()
        return moved


def test_a_careless_method_stays_in_the_ball():
    model, images = linear(), grey(6)
    result = attack(model, images, predict(model, images), 0.1, method=Careless())
    assert (result.distance <= 0.1).all()
    assert (result.adversarial.flatten(1)[:, 0] == images.flatten(1)[:, 0]).all()


class Centred(nn.Module):
    """Moves its input in place before a linear map."""

    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x):
        return self.linear(x.sub_(0.5))


def test_a_model_that_overwrites_its_input_is_attacked_inside_the_ball():
    images = grey(6, low=0.0, high=1.0)
    labels = predict(Centred(), images.clone())
    result = attack(Centred(), images, labels, 0.1, steps=5)
    assert (result.distance <= 0.1).all()
    assert ((result.adversarial >= 0) & (result.adversarial <= 1)).all()


class Rooted(nn.Module):
    """Infinite gradient at black pixels, and no NaN in the logits that would show it."""

    def forward(self, x):
        return torch.stack((x.flatten(1).sqrt().nan_to_num(9.0).sum(1), x.flatten(1).sum(1)), 1)


@pytest.mark.parametrize("method", ["pgd", "fgsm", "ddn"])
def test_infinite_gradients_make_no_images_of_nan(method):
    images = grey(4)
    images[:, 0, 0, 0] = 0.0
    result = attack(Rooted(), images, predict(Rooted(), images), 0.5, method=method)
    assert (result.distance <= 0.5).all()
    assert result.adversarial.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
def test_labels_of_any_integer_type_are_taken(dtype):
    model, images = linear(), grey(4)
    labels = predict(model, images)
    result = attack(model, images, labels.to(dtype), 0.1, steps=5)
    assert torch.equal(result.success, attack(model, images, labels, 0.1, steps=5).success)
