"""What orthogonal critics replace: penalties and clipping, with the bounds proved of them."""

import copy
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut.program import LipschitzBound
from taut.wasserstein import (
    CriticTraining,
    Samples,
    Settings,
    measure_critic,
    read_samples,
    train_critic,
)


@final
@dataclass(frozen=True, eq=False)
class Claim:
    """What a critic that is only discouraged from being steep says of a distance.

    Attributes:
        claimed: its dual value on held-out points, called a distance as if the critic were
            1-Lipschitz; neither a lower nor an upper bound of one.
        proved: the part of it that is proved: over the critic's Lipschitz bound.
        bound: the proved bound, layer by layer.
        critic: in eval mode.

    Example:
        >>> print(Claim(6.0, 2.0, LipschitzBound(3.0), nn.Identity()))
        claims 6; not a distance: the critic is proved 3-Lipschitz, no less, which proves 2
    """

    claimed: float
    proved: float
    bound: LipschitzBound
    critic: nn.Module = field(repr=False)

    def __str__(self) -> str:
        return (
            f"claims {self.claimed:.4g}; not a distance: the critic is proved "
            f"{float(self.bound):.4g}-Lipschitz, no less, which proves {self.proved:.4g}"
        )


def unconstrained(input_shape: tuple[int, ...], *, width: int = 64) -> nn.Sequential:
    """A plain torch critic as WGANs use it: strided convolutions for images, else dense layers.

    Args:
        input_shape: of one input; images have three dimensions, of 8 and more pixels a side.
        width: channels of the first convolution, or of the hidden layers.

    Example:
        >>> unconstrained((1, 28, 28), width=4)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 1])
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 8:
        size = torch.Size(input_shape).numel()
        hidden = (nn.Linear(size, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 1))
    layers: list[nn.Module] = []
    channels, height, wide = input_shape
    for i in range(3):
        layers += [nn.Conv2d(channels, width << i, 4, 2, padding=1), nn.LeakyReLU(0.2)]
        channels, height, wide = width << i, height // 2, wide // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * wide, 1))


def gradient_penalty(
    critic: nn.Module,
    x: Float[Tensor, "b *shape"],
    y: Float[Tensor, "b *shape"],
    places: Float[Tensor, "b"],
) -> Float[Tensor, ""]:
    r"""Mean of :math:`(\lVert \nabla f \rVert - 1)^2` at points between two batches.

    Args:
        critic: f.
        x: a batch of one sample.
        y: a batch of the other.
        places: where between them, 0 at `x` and 1 at `y`.

    Reference:
        Gulrajani et al. (2017), *Improved Training of Wasserstein GANs*, eq. 3; arXiv:1704.00028.

    Example:
        >>> x = torch.zeros(3, 2)
        >>> steep = nn.Linear(2, 1)
        >>> _ = steep.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> gradient_penalty(steep, x, x + 1, torch.full((3,), 0.5)).item()
        16.0
    """
    share = places.reshape(-1, *[1] * (x.ndim - 1))
    between = (x + share * (y - x)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


@torch.no_grad()
def clip_(critic: nn.Module, limit: float) -> None:
    """Cut every parameter to between `-limit` and `limit`, in place.

    Args:
        critic: whose parameters.
        limit: the largest modulus.

    Reference:
        Arjovsky et al. (2017), *Wasserstein GAN*, algorithm 1; arXiv:1701.07875.

    Example:
        >>> layer = nn.Linear(4, 4)
        >>> clip_(layer, 0.01)
        >>> round(layer.weight.abs().max().item(), 4)
        0.01
    """
    for parameter in critic.parameters():
        parameter.clamp_(-limit, limit)


def penalised(
    p: Samples,
    q: Samples,
    critic: nn.Module | None = None,
    *,
    penalty: float = 10.0,
    settings: Settings = Settings(lr=1e-3),  # noqa: B008 (frozen)
) -> Claim:
    """What a critic under a gradient penalty (WGAN-GP) claims, and what it proves.

    Args:
        p: points to score high, as :func:`taut.wasserstein.estimate` takes them.
        q: points to score low.
        critic: a copy is trained; by default :func:`unconstrained`.
        penalty: weight of :func:`gradient_penalty`.
        settings: of training.

    Raises:
        ValueError: if the samples, the critic or `penalty` do not fit.
        UnprovenError: if the critic cannot be bounded.

    Example:
        >>> x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        >>> claim = penalised(x, x + 3, settings=Settings(steps=5))
        >>> claim.proved <= 3 * 2**0.5
        True
    """
    if not penalty > 0:
        raise ValueError(f"`penalty` must be a positive number; got {penalty}.")
    return _claim(p, q, critic, settings, under_penalty(penalty, settings.seed))


def under_penalty(weight: float, seed: int) -> CriticTraining:
    """The training of WGAN-GP: nothing but the gradient penalty.

    Args:
        weight: of the penalty.
        seed: of the places between batches where it is taken.

    Example:
        >>> x, flat = torch.zeros(3, 2), nn.Linear(2, 1)
        >>> _ = flat.weight.data.zero_()
        >>> under_penalty(10.0, 0).penalty(flat, x, x + 1).item()
        10.0
    """
    places = torch.Generator().manual_seed(seed)

    def penalise(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        drawn = torch.rand(len(x), generator=places).to(x)
        return weight * gradient_penalty(model, x, y, drawn)

    return CriticTraining(penalise, lambda model, step: None)


def clipped(
    p: Samples,
    q: Samples,
    critic: nn.Module | None = None,
    *,
    limit: float = 0.01,
    settings: Settings = Settings(lr=1e-3),  # noqa: B008 (frozen)
) -> Claim:
    """What a critic with clipped weights (the first WGAN) claims, and what it proves.

    Args:
        p: points to score high, as :func:`taut.wasserstein.estimate` takes them.
        q: points to score low.
        critic: a copy is trained; by default :func:`unconstrained`.
        limit: largest modulus of a parameter.
        settings: of training.

    Raises:
        ValueError: if the samples, the critic or `limit` do not fit.
        UnprovenError: if the critic cannot be bounded.

    Example:
        >>> x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        >>> clipped(x, x + 3, settings=Settings(steps=5)).claimed < 0.1
        True
    """
    if not limit > 0:
        raise ValueError(f"`limit` must be a positive number; got {limit}.")
    training = CriticTraining(lambda *_: 0.0, lambda model, step: clip_(model, limit))
    return _claim(p, q, critic, settings, training)


def _claim(
    p: Samples,
    q: Samples,
    critic: nn.Module | None,
    settings: Settings,
    training: CriticTraining,
) -> Claim:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        first, second = read_samples(p, q, settings)
        shape = tuple(first.held_out.shape[1:])
        model = unconstrained(shape) if critic is None else copy.deepcopy(critic)
        measure_critic(model, shape)
        # No check chooses weights: the last ones are what the method hands over.
        train_critic(model, first, second, settings, lambda step, _: float(step), training)
    measured = measure_critic(model, shape)
    x, y = measured.scores(first.held_out), measured.scores(second.held_out)
    proved = measured.lower(first.held_out, second.held_out)
    return Claim(float(x.mean() - y.mean()), proved, measured.bound, model.eval())
