"""Private gradient descent: random batches, gradients with noise, and the projection."""

import math

import torch
from torch import Tensor, nn

from taut._arguments import check_tensor, positive
from taut.private._accounting import SampledGaussian
from taut.private._losses import Loss, image_losses, loss_bound, shortened
from taut.private._sensitivity import Sensitivities

_PART = 1024
"""Examples whose gradients are computed at a time; gradients of parts of a batch add up."""


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    mechanism: SampledGaussian,
    *,
    loss: Loss,
    optimiser: torch.optim.Optimizer,
    input_norm: float = 1.0,
    generator: torch.Generator | None = None,
) -> None:
    r"""Train a model with differential privacy for each example.

    In each step: a batch that has each example with the probability of the mechanism; the sum of
    its gradients, plus Gaussian noise on each parameter, over the expected size of a batch; a step
    of the optimiser; and :func:`project_`. No gradient of a single example is computed or clipped:
    the norm of each is bounded by :func:`sensitivities` at the weights of that step. For d
    parameters the noise on each has the standard deviation :math:`\sigma \sqrt d` times its
    sensitivity: of all gradients together, in units of their sensitivities, the norm of one example
    is at most :math:`\sqrt d`.

    Guarantee: all weights, of each step, are `(mechanism.epsilon(delta), delta)`-differentially
        private for each delta, if one example is added or removed; in real arithmetic, with exact
        Gaussian noise. The number of examples counts as known. Noise comes from torch's generator,
        which is not cryptographically secure.
    Cost: a plain step, and a norm bound of each layer before and after it.

    Args:
        model: as :func:`sensitivities` takes it; trained in place.
        images: all examples, `(n, *input_shape)`; those with a norm above `input_norm` are scaled
            down to it.
        labels: class indices of the examples.
        mechanism: noise, sampling rate, and number of steps.
        loss: see :func:`loss_bound`.
        optimiser: any optimiser of the trained parameters but LBFGS, whose step needs a closure;
            it sees only noisy gradients.
        input_norm: largest l2 norm of an input.
        generator: for batches and noise, on the CPU; one with a secret seed by default. Whoever
            knows the seed of yours knows the noise.

    Raises:
        UnprovenError: as :func:`sensitivities`.
        ValueError: if an argument does not fit.

    Example:
        >>> model = torch.nn.Linear(4, 2, bias=False)
        >>> images, labels = torch.randn(100, 4), torch.arange(100) % 2
        >>> train(model, images, labels, SampledGaussian(2.0, 0.1, steps=5),
        ...       loss=torch.nn.CrossEntropyLoss(),
        ...       optimiser=torch.optim.SGD(model.parameters(), lr=0.1))
        >>> model.weight.norm() > 0
        tensor(True)
    """
    _check_examples(images, labels)
    _check_tools(mechanism, optimiser)
    norm, slope = positive("input_norm", input_norm), loss_bound(loss)
    bounds = Sensitivities(model, tuple(images.shape[1:]))
    labels = labels.long()
    _check_fit(bounds, images, labels, getattr(loss, "ignore_index", None))
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    expected = mechanism.sampling_rate * len(images)
    bounds.project_()
    for _ in range(mechanism.steps):
        chosen = sampled(len(images), mechanism.sampling_rate, generator).to(images.device)
        largest = bounds.bounds(norm, slope)
        model.zero_grad()
        for part in chosen.split(_PART) if len(chosen) else ():
            logits = model(shortened(images[part], norm))
            image_losses(loss, logits, labels[part]).sum().backward()
        add_noise_(bounds.parameters, largest, mechanism.noise_multiplier, expected, generator)
        optimiser.step()
        bounds.project_()


def sampled(count: int, rate: float, generator: torch.Generator) -> Tensor:
    """Indices of a batch that has each example with the same probability, independently."""
    return (torch.rand(count, generator=generator, dtype=torch.float64) < rate).nonzero()[:, 0]


@torch.no_grad()
def add_noise_(
    parameters: dict[str, nn.Parameter],
    sensitivities: dict[str, float],
    noise_multiplier: float,
    expected: float,
    generator: torch.Generator,
) -> None:
    """Add noise to sums of gradients, by the sensitivity of each; divide by an expected size."""
    scale = noise_multiplier * math.sqrt(len(parameters))
    for name, p in parameters.items():
        noise = torch.randn(p.shape, generator=generator, dtype=p.dtype) * sensitivities[name]
        gradient = torch.zeros_like(p) if p.grad is None else p.grad
        p.grad = gradient.add_(noise.to(p.device), alpha=scale).div_(expected)


def _check_examples(images: Tensor, labels: Tensor) -> None:
    check_tensor("images", images)
    check_tensor("labels", labels)
    if images.dim() < 2 or not images.is_floating_point() or not len(images):
        raise ValueError(
            "`images` must be one floating-point tensor of all examples, batch first; got "
            f"{tuple(images.shape)} of {images.dtype}."
        )
    whole_numbers = not (labels.is_floating_point() or labels.is_complex())
    if labels.shape != images.shape[:1] or not whole_numbers or labels.dtype == torch.bool:
        raise ValueError(
            f"`labels` must be class indices, integers of shape ({len(images)},); got "
            f"{tuple(labels.shape)} of {labels.dtype}."
        )
    if not all(bool(extreme.isfinite()) for extreme in images.aminmax()):
        raise ValueError("`images` must be finite; they hold NaN or Inf.")


def _check_tools(mechanism: object, optimiser: object) -> None:
    if not isinstance(mechanism, SampledGaussian):
        raise ValueError(f"`mechanism` must be a SampledGaussian; got {type(mechanism).__name__}.")
    if not isinstance(optimiser, torch.optim.Optimizer) or isinstance(optimiser, torch.optim.LBFGS):
        raise ValueError(
            "`optimiser` must be an optimiser of torch whose step needs no closure; got "
            f"{type(optimiser).__name__}."
        )


def _check_fit(bounds: Sensitivities, images: Tensor, labels: Tensor, ignored: int | None) -> None:
    """Refuse images in another precision than the model's, and labels that are no classes."""
    wanted = next(iter(bounds.parameters.values())).dtype
    if images.dtype != wanted:
        raise ValueError(f"`images` must be {wanted} like the model; got {images.dtype}.")
    classes = bounds.program.shapes[bounds.program.output][0]
    wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignored)]
    if len(wrong):
        raise ValueError(f"`labels` must be in 0..{classes - 1}; got {int(wrong[0])}.")
