"""The norm of a layer that promises none while it trains: an estimate with a gradient."""

from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from taut.linalg.leading import leading_direction
from taut.parametrizations import AbstractParametrization, without_autocast
from taut.program import Site, operation

_KERNELS = ("conv", "conv_transpose", "linear")
# A direction of one frequency of a periodic domain stays one: this much of all others is added.
_NUDGE = 1e-3


def weight_at(model: nn.Module, path: str) -> Tensor | None:
    """The matrix or kernel of a layer, with its gradient, if it has one."""
    try:
        weight = _weight_of(model.get_submodule(path))
    except AttributeError:
        return None
    return weight if isinstance(weight, Tensor) and weight.ndim >= 2 else None


def _weight_of(layer: Any) -> Any:
    """The weight, as in evaluation: in training, readings of `spectral_norm` move its vectors."""
    modes = [(module, module.training) for module in layer.modules()]
    layer.eval()
    try:
        return layer.weight
    finally:
        for module, mode in modes:
            module.training = mode


@final
@dataclass(eq=False)
class NormEstimate:
    r"""A call of a layer, and the direction v that its operator W stretches most.

    :math:`\|W v\|` for a unit v that is constant to the gradient has the gradient
    :math:`u^\top dW\, v`, :math:`u = Wv / \|Wv\|`: that of the norm, for the right v.

    Args:
        module: the layer.
        site: the call, on an input of its size.
        share: of its norm in the constant of the model, see `taut.program.shares_of`.
    """

    module: Any
    site: Site
    share: float
    start: float = field(default=1.0, init=False)  # the norm at first
    direction: Tensor = field(init=False)
    noise: Tensor = field(init=False)  # of norm 1, with a component in every direction

    def __post_init__(self) -> None:
        shape = self.site.shapes[0]
        shape = shape[-1:] if self.site.node.op == "linear" else shape
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1, *shape, generator=generator, dtype=torch.float64, device="cpu")
        self.noise = (noise / noise.norm()).to(_weight_of(self.module).detach())
        self.direction = self.noise

    @torch.no_grad()
    def begin(self, proven: Any, steps: int) -> None:
        """Find the norm of the layer at first: of its projected copy, of which the proof is."""
        running, self.module = self.module, proven
        self.follow(steps)
        self.start = float(self.norm())
        self.module = running
        if not torch.equal(_weight_of(running), _weight_of(proven)):
            self.follow(steps)

    @torch.no_grad()
    def follow(self, steps: int) -> None:
        """Improve the direction by steps of Lanczos' method."""
        weight, start = _weight_of(self.module), self.direction + _NUDGE * self.noise
        with without_autocast(weight.device):
            found = leading_direction(lambda x: self._normal(weight, x), start, steps)
        self.direction = found.contiguous()

    def norm(self) -> Tensor:
        """The estimate of the norm, from below; the weight with its gradient."""
        weight = _weight_of(self.module)
        with without_autocast(weight.device):
            return self._apply(weight, self.direction).norm()

    def factor(self) -> Tensor:
        """By what the constant of the model changes, as the norm has changed since the start."""
        ratio = self.norm() / self.start
        # A power below 1 has an infinite slope at 0.
        return ratio.clamp(min=torch.finfo(ratio.dtype).tiny) ** self.share

    def state(self) -> dict[str, Tensor]:
        """All that the estimate depends on beside the weight."""
        numbers = torch.tensor([self.share, self.start], dtype=torch.float64, device="cpu")
        return {"direction": self.direction, "numbers": numbers}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        self.share, self.start = state["numbers"].tolist()
        self.direction = state["direction"].to(self.noise)

    def _apply(self, weight: Tensor, x: Tensor) -> Tensor:
        """W x, without the bias."""
        site = replace(self.site, tensors={"weight": weight})
        return operation(site).run(site, x)

    def _normal(self, weight: Tensor, x: Tensor) -> Tensor:
        """The adjoint of W, applied to W x."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = self._apply(weight.detach(), x)
            return torch.autograd.grad(y, x, y.detach())[0]


def layer_to_follow(model: nn.Module, still: nn.Module, site: Site) -> Any:
    """The layer that a matrix or kernel of a program is of, if it learns and promises no constant.

    Args:
        model: with its tensors as they are.
        still: the copy of which the program is.
        site: of the program.
    """
    if site.node.op not in _KERNELS:
        return None
    layer = model.get_submodule(site.node.path)
    methods = (child for child in layer.children() if isinstance(child, AbstractParametrization))
    if any(method.guarantee != "none" for method in methods):
        return None
    if not any(parameter.requires_grad for parameter in layer.parameters()):
        return None
    # Only a layer that applies its weight as it is.
    with torch.no_grad():
        own, weight = weight_at(still, site.node.path), site.tensors["weight"].cpu()
    return layer if own is not None and torch.equal(own.to(weight), weight) else None
