"""A search for inputs within a radius at which rounding alone changes the answer of a program.

Points are moved next to the boundary, then along the gradient to just inside their radius, and a
little noise is added: one unit in the last place, up or down, in some coordinates. A radius that
leaves rounding out does not survive that; a sound one has to.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

import taut
from taut.certification import Certificate, l2_distance_upper, prove
from taut.program import replay

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FlipCounts:
    """How many inputs lay within their radius for certain, and how many changed the answer."""

    inside: int
    flips: int


def orthonormal(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(columns, rows, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(matrix)[0].T


def linear(n: int = 100, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    model = nn.Linear(n, 10, bias=False).to(dtype)
    with torch.no_grad():
        model.weight.copy_(orthonormal(10, n, seed))
    return model


def dense(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))


def deep(seed: int = 0) -> nn.Module:
    """Keeps the norm of every gradient: its certificate is tight."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [taut.nn.InvertibleDownsample2d(2)]
    for _ in range(5):
        layers += [taut.nn.Conv2d(4, 4, 3), taut.nn.MaxMin()]
    layers += [nn.Flatten(), taut.nn.Linear(64, 64), taut.nn.MaxMin(), taut.nn.Linear(64, 10)]
    return taut.freeze(nn.Sequential(*layers)).eval()


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (linear, (100,)),
    "dense": (dense, (20,)),
    "deep": (deep, (1, 8, 8)),
}


def rounding_search(
    name: str, arithmetic: str, points: int, tries: int, dtype: torch.dtype
) -> dict[str, FlipCounts]:
    """Search with the certified radii ("sound"), and with those of real numbers ("naive").

    In float64 the program takes any float64 input; its weights are float32 numbers.
    """
    make, shape = NETS[name]
    model = make().to(dtype)
    sound = prove(model, shape, arithmetic=arithmetic)
    naive = prove(model, shape, arithmetic="real")
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(points, *shape, generator=generator, dtype=torch.float64)

    def run(y: Tensor) -> Tensor:
        return replay(sound.program, y)

    low, high = {torch.float32: (3e-6, 1e-2), torch.float64: (1e-13, 1e-8)}[dtype]
    wanted = torch.logspace(math.log10(low), math.log10(high), points, dtype=torch.float64)
    x = _near_boundary(run, start, wanted).to(dtype)

    logits = sound.logits(x)
    labels = logits.argmax(1)

    def flips(certificate: Certificate) -> FlipCounts:
        return _search(run, sound.logits, (x, labels, certificate.radius(logits, labels, x)), tries)

    return {"sound": flips(sound), "naive": flips(naive)}


def _near_boundary(run: Function, x: Tensor, margins: Tensor, steps: int = 40) -> Tensor:
    """Move points until they lead by the margins wanted, along the gradient of the lead."""
    labels = run(x).argmax(1)
    for _ in range(steps):
        margin, direction = _lead(run, x, labels)
        step = (margin - margins) / direction.flatten(1).square().sum(1)
        x = x - _per_point(step, x) * direction
    return x


def _lead(run: Function, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    z = run(x)
    others = z.scatter(1, labels[:, None], -math.inf)
    margin = z.gather(1, labels[:, None]).squeeze(1) - others.amax(1)
    (gradient,) = torch.autograd.grad(margin.sum(), x)
    return margin.detach(), gradient


def _search(
    run: Function, execute: Function, certified: tuple[Tensor, Tensor, Tensor], tries: int
) -> FlipCounts:
    """Points inside each radius, as near the boundary as rounding lets us look."""
    generator = torch.Generator().manual_seed(0)
    inside = flips = 0
    live = certified[2] > 0
    x, labels, radius = (values[live] for values in certified)
    if not len(x):
        return FlipCounts(0, 0)
    _, direction = _lead(run, x.double(), labels)
    unit = -direction / _per_point(direction.flatten(1).norm(dim=1), x)
    for i in range(tries):
        short = 10.0 ** -(5 + 4 * i / tries)
        y = (x.double() + _per_point(radius * (1 - short), x) * unit).to(x.dtype)
        noise = torch.randint(-1, 2, y.shape, generator=generator).to(y)
        moved = torch.where(noise > 0, torch.full_like(y, math.inf), torch.full_like(y, -math.inf))
        y = torch.where(noise == 0, y, torch.nextafter(y, moved))
        within = l2_distance_upper(x, y) <= radius
        for logits in (execute(y), torch.cat([execute(part) for part in y.split(1)])):
            changed = within & (logits.argmax(1) != labels)
            inside, flips = inside + int(within.sum()), flips + int(changed.sum())
            for at in changed.nonzero().flatten().tolist():
                assert _exact_square(x[at], y[at]) <= Fraction(radius[at].item()) ** 2
    return FlipCounts(inside, flips)


def _per_point(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _exact_square(x: Tensor, y: Tensor) -> Fraction:
    pairs = zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)
    return sum(((Fraction(p) - Fraction(q)) ** 2 for p, q in pairs), Fraction(0))
