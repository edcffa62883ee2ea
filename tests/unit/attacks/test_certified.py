"""Attacks on trained nets: none succeeds within a certified radius, one does just beyond it."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

import taut
from taut.attacks import DDN, FGSM, PGD, attack, hold, smallest_attack
from taut.certification import Certificate, Certification, l2_distance_upper, prove
from taut.losses import MultiMargin
from taut.program import LipschitzBound

POINTS = 8


def linear():
    """The pairwise constants of one matrix are exact: the certificate is tight everywhere."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def orthogonal():
    """Keeps the norm of every gradient: tight up to where the nearest MaxMin switches."""
    return nn.Sequential(
        taut.nn.Conv2d(1, 4, 4, 2),
        taut.nn.MaxMin(),
        taut.nn.Conv2d(4, 16, 4, 2),
        taut.nn.MaxMin(),
        nn.Flatten(),
        taut.nn.Linear(784, 32),
        taut.nn.MaxMin(),
        taut.nn.Linear(32, 10),
    )


def plain():
    """Neither constrained nor tight: a product of norms."""
    layers = [nn.Conv2d(1, 4, 5, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10)]
    return nn.Sequential(*layers)


NETS = {"linear": (linear, 60), "orthogonal": (orthogonal, 40), "plain": (plain, 60)}


def trained(make, steps, images, labels):
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        part = torch.arange(64 * step, 64 * (step + 1)) % len(images)
        optimizer.zero_grad()
        MultiMargin(eps_train=0.5)(model(images[part]), labels[part]).backward()
        optimizer.step()
    return taut.freeze(model).eval()


@dataclass
class Case:
    """Images that a trained net gets right, with the certificate of the net."""

    model: nn.Module
    certificate: Certificate
    images: Tensor
    labels: Tensor

    @property
    def radius(self) -> Tensor:
        logits = self.certificate.logits(self.images)
        return self.certificate.radius(logits, self.labels, self.images)

    def certification(self, factor: float = 1.0) -> Certification:
        """Of these images, with radii times a factor."""
        made = taut.certify(self.model, self.images, self.labels)
        return replace(made, certificate=self.certificate, radius=factor * self.radius)

    def broken(self, moved: Tensor) -> Tensor:
        """Whether the certified program answers otherwise, all images at once or one by one."""
        parts = [self.certificate.logits(part) for part in moved.split(1)]
        answers = (self.certificate.logits(moved), torch.cat(parts))
        return torch.stack([z.argmax(1) != self.labels for z in answers]).any(0)

    def breaks(self, moved: Tensor) -> int:
        """How many points of an attack lie within the radius and are broken."""
        within = l2_distance_upper(self.images, moved) <= self.radius
        return int((within & self.broken(moved)).sum())

    def falsified(self) -> "Case":
        """The same with half the bound, hence twice the radius."""
        bound = self.certificate.bound
        half = LipschitzBound(bound.value / 2, bound.layers, bound.pairwise / 2)
        return replace(self, certificate=replace(self.certificate, bound=half))


@pytest.fixture(scope="module")
def cases():
    """Each net as the float64 program of its exported weights, and as it runs in float32."""
    data = taut.data.load("fashion-mnist-subset")
    images, labels = data.train.float_images(), data.train.labels
    made = {}
    for name, (make, steps) in NETS.items():
        model = trained(make, steps, images, labels)
        for arithmetic, dtype in (("float64", torch.float64), ("float32", torch.float32)):
            # The certificate is of the float32 weights, each of which is a float64 number.
            certificate = prove(model, data.input_shape, arithmetic=arithmetic)
            same, x = copy.deepcopy(model).to(dtype), data.test.float_images().to(dtype)
            whole = Case(same, certificate, x, data.test.labels)
            right = (whole.radius > 0).nonzero().flatten()[:POINTS]
            assert len(right) == POINTS, "training got too few images right"
            made[name, arithmetic] = Case(same, certificate, x[right], data.test.labels[right])
    return made


every_net = pytest.mark.parametrize("name", NETS)
every_arithmetic = pytest.mark.parametrize("arithmetic", ["float64", "float32"])
METHODS = {"pgd": PGD(steps=15), "fgsm": FGSM(), "ddn": DDN(steps=12)}


def ours(case, method):
    """The attack on each image at its own radius, as near as the driver goes."""
    triples = zip(case.images.split(1), case.labels.split(1), case.radius.tolist(), strict=True)
    return torch.cat([attack(case.model, *given, method).adversarial for given in triples])


@every_arithmetic
@every_net
@pytest.mark.parametrize("method", METHODS)
def test_no_attack_breaks_a_point_within_its_radius(cases, name, arithmetic, method):
    case = cases[name, arithmetic]
    moved = ours(case, METHODS[method])
    reached = l2_distance_upper(case.images, moved)
    assert (reached <= case.radius).all()
    assert not case.broken(moved).any()
    if method == "pgd":  # the others may end at the box, or at the image itself
        assert (reached > 0.99 * case.radius).sum() > POINTS / 2


@every_arithmetic
@every_net
def test_no_smallest_attack_is_nearer_than_the_radius(cases, name, arithmetic):
    case = cases[name, arithmetic]
    result = smallest_attack(case.model, case.images, case.labels, steps=40)
    assert result.success.all()
    assert (l2_distance_upper(case.images, result.adversarial) > case.radius).all()


@every_arithmetic
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["linear", "orthogonal"])
def test_every_attack_breaks_a_falsified_certificate(cases, name, arithmetic, method):
    case = cases[name, arithmetic].falsified()
    assert case.breaks(ours(case, METHODS[method])) > 0


NEAREST = {
    "ddn": {"steps": 12},
    "deepfool": {"steps": 20},
    "carlini-wagner": {"steps": 30, "searches": 2},
    "boundary": {"steps": 60},
}


@every_net
@pytest.mark.parametrize("method", NEAREST)
def test_no_search_for_the_nearest_breaks_a_certificate(cases, name, method):
    case = cases[name, "float64"]
    result = smallest_attack(case.model, case.images, case.labels, method, **NEAREST[method])
    assert result.success.any()
    given = (result, case.images)
    assert not hold(*given, case.certification(), method=method).any()
    with pytest.raises(RuntimeError, match=f"test image . is misclassified by {method} at"):
        hold(*given, case.certification(factor=20), method=method)


@every_net
def test_autoattack_breaks_no_point_within_its_radius(cases, name):
    case = cases[name, "float64"]
    for i in range(2):
        one = replace(case, images=case.images[i : i + 1], labels=case.labels[i : i + 1])
        given = (one.model, one.images, one.labels, float(one.radius))
        result = attack(*given, "autoattack", steps=4, queries=20)
        assert not one.broken(result.adversarial).any()
        assert not hold(result, one.images, one.certification()).any()


BEYOND = {"pgd": {"steps": 40}, "autoattack": {"steps": 20, "queries": 1}}


@pytest.mark.parametrize("method", BEYOND)
def test_attacks_succeed_just_beyond_a_tight_radius(cases, method):
    """Grey images, so that the box is out of the way; one matrix, so that the radius is exact."""
    case = cases["linear", "float64"]
    grey = replace(case, images=0.3 + 0.4 * case.images)
    with torch.no_grad():
        grey = replace(grey, labels=grey.model(grey.images).argmax(1))
    near = (grey.radius < 0.25).nonzero().flatten()[:2].tolist()
    assert near
    for i in near:
        one, radius = (grey.images[i : i + 1], grey.labels[i : i + 1]), float(grey.radius[i])
        given = (grey.model, *one)
        assert attack(*given, 1.02 * radius, method, **BEYOND[method]).success.all()
        assert not attack(*given, radius, method, **BEYOND[method]).success.any()


def between(case):
    """Points between two images of different classes, just before the answer changes."""
    near, far = case.images, case.images.flip(0)
    labels = case.certificate.logits(near).argmax(1)
    low, high = torch.zeros(2, len(near), 1, 1, 1, dtype=near.dtype).unbind(0)
    high = high + 1
    for _ in range(14):
        middle = (low + high) / 2
        answers = case.certificate.logits(near + middle * (far - near)).argmax(1)
        same = (answers == labels).reshape(-1, 1, 1, 1)
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    differs = labels != labels.flip(0)
    points = (near + low * (far - near))[differs]
    return replace(case, images=points, labels=labels[differs])


def downhill(case, share):
    """Each point moved along the gradient of its lead over each other class, without a box."""
    x = case.images.detach().requires_grad_()
    z = case.model(x)
    own = z.gather(1, case.labels[:, None]).squeeze(1)
    for rival in range(z.shape[1]):
        lead = (own - z[:, rival]).sum()
        (gradient,) = torch.autograd.grad(lead, x, retain_graph=True)
        length = gradient.flatten(1).norm(dim=1).clamp_min(1e-30)
        step = (share * case.radius / length).reshape(-1, 1, 1, 1).to(x.dtype)
        yield x.detach() - step * gradient


@pytest.mark.parametrize("name", ["linear", "orthogonal"])
def test_a_tight_certificate_is_broken_just_beyond_its_radius(cases, name):
    case = cases[name, "float64"]
    case = case if name == "linear" else between(case)
    assert (case.radius > 0).sum() >= 5
    beyond = torch.stack([case.broken(moved) for moved in downhill(case, 1.02)]).any(0)
    within = torch.stack([case.broken(moved) for moved in downhill(case, 1 - 1e-9)]).any(0)
    assert beyond.double().mean() >= (1.0 if name == "linear" else 0.8)
    assert not within.any()


def foolbox_attacks(foolbox):
    return {
        "pgd": foolbox.attacks.L2ProjectedGradientDescentAttack(rel_stepsize=0.1, steps=20),
        "deepfool": foolbox.attacks.L2DeepFoolAttack(steps=20),
        "carlini-wagner": foolbox.attacks.L2CarliniWagnerAttack(
            3, steps=30, stepsize=0.01, initial_const=1.0
        ),
    }


def theirs(case, method, bounds):
    """What an attack of foolbox finds: at the radius, or as near as it gets."""
    foolbox = pytest.importorskip("foolbox")
    model = foolbox.PyTorchModel(case.model, bounds=bounds, device="cpu")
    chosen = foolbox_attacks(foolbox)[method]
    if method != "pgd":
        return chosen(model, case.images, case.labels, epsilons=None)[0]
    triples = zip(case.images.split(1), case.labels.split(1), case.radius.tolist(), strict=True)
    found = [chosen(model, x, y, epsilons=r * (1 - 1e-6))[0] for x, y, r in triples]
    return torch.cat(found)


FOOLBOX = pytest.mark.parametrize("method", ["pgd", "deepfool", "carlini-wagner"])
BOUNDS = pytest.mark.parametrize("bounds", [(0, 1), (-4, 5)], ids=["box", "wide"])


@every_arithmetic
@every_net
@BOUNDS
@FOOLBOX
def test_no_attack_of_foolbox_breaks_a_point(cases, name, arithmetic, method, bounds):
    case = cases[name, arithmetic]
    moved = theirs(case, method, bounds)
    assert case.breaks(moved) == 0
    if method == "pgd":
        within = l2_distance_upper(case.images, moved) <= case.radius
        assert within.sum() > POINTS / 2
    else:
        assert case.broken(moved).any()  # beyond the radius


@every_arithmetic
@FOOLBOX
def test_foolbox_breaks_a_falsified_certificate(cases, arithmetic, method):
    case = cases["linear", arithmetic].falsified()
    assert case.breaks(theirs(case, method, (-4, 5))) > 0
