"""N-activations: up, down and up again, with learned turning points."""

from typing import Any, final

import torch
from torch import Tensor, nn

from taut._arguments import axis, whole
from taut._sharding import draws
from taut.linalg.derivatives import applied, keep
from taut.linalg.rounding import up_product, up_root
from taut.nn.activations._along import along, beside, check_channels
from taut.program import AbstractOp, Call, Rounding, Site, like, norm_upper, op, single_call


@final
class NActivation(nn.Module):
    r"""N-activation of each channel: slopes 1, -1 and 1, with two learned thresholds.

    For the thresholds :math:`l \le h` of a channel, sorted,

    .. math:: f(x) = x - 2l \;(x < l), \quad -x \;(l \le x \le h), \quad x - 2h \;(x > h),

    that is :math:`x - 2 \min(\max(x, l), h)`. Equal thresholds give a shift, thresholds that are
    far apart an absolute value or its negative. MaxMin, and all functions of two pieces, restrict
    which functions of one variable a 1-Lipschitz net represents; three pieces are more expressive.

    Guarantee: 1-Lipschitz in l2 and gradient norm preserving: the Jacobian is diagonal with entries
        1 and -1, at the thresholds too.
    Cost: a few elementwise passes.

    Thresholds start at (-1, 0) for the first, third, ... channel and at (0, 0), the identity, for
    the others: the default start of the authors' code. They are in the units of the input: train
    them with a learning rate that suits these.

    Inputs are `(batch, channels, *spatial)`, or have their channels along `dim`.

    Args:
        channels: of the input.
        dim: the axis of the channels; -1 for tokens `(batch, tokens, features)`, -3 for an image
            without a batch.
        device: of the parameter.
        dtype: of the parameter.

    Attributes:
        raw: the thresholds in any order, `(channels, 2)`.

    Raises:
        ValueError: if `channels` is not a positive integer, or the input has other channels.

    Reference:
        Prach, Lampert (2023), *1-Lipschitz neural networks are more expressive with N-activations*,
        arXiv:2311.06103. Code: https://github.com/berndprach/NActivation, `theta_init_values`.

    Example:
        >>> NActivation(2)(torch.tensor([[-3.0, 1.0], [-0.5, 2.0], [2.0, 3.0]])).detach()
        tensor([[-1.0000,  1.0000],
                [ 0.5000,  2.0000],
                [ 2.0000,  3.0000]])
    """

    def __init__(
        self,
        channels: int,
        dim: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.dim = whole("channels", channels), axis("dim", dim)
        self.raw = nn.Parameter(torch.empty(self.channels, 2, device=device, dtype=dtype))
        self.reset_parameters()

    @draws
    def reset_parameters(self) -> None:
        """Turning points at -1 and 0 in every other channel, the identity in the others."""
        with torch.no_grad():
            self.raw.zero_()
            self.raw[::2, 0] = -1.0

    def thresholds(self) -> tuple[Tensor, Tensor]:
        """The lower and the upper threshold of each channel, `(channels,)` each."""
        low, high = self.raw[:, 0], self.raw[:, 1]
        exchanged = low > high  # at ties each keeps its own gradient
        return torch.where(exchanged, high, low), torch.where(exchanged, low, high)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation along its dimension."""
        check_channels(input, self.channels, self.dim)
        return along(n_activation, input, self.dim, *self.thresholds())

    def extra_repr(self) -> str:
        """The channels, and their axis where it is not the first behind the batch."""
        return f"{self.channels}" + ("" if self.dim == 1 else f", dim={self.dim}")


def _captured(c: Call, x: Any, low: Any, high: Any) -> str:
    tensors = {"high": c.constant(high), "low": c.constant(low)}
    return c.add("NActivation", [c.name(x)], tensors=tensors)


@single_call(_captured)
def n_activation(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """X - 2 min(max(x, low), high), for channels along axis 1."""
    if torch.is_grad_enabled() and (x.requires_grad or low.requires_grad or high.requires_grad):
        return applied(_NActivation, x, low, high)[0]
    return x - 2 * torch.minimum(torch.maximum(x, beside(low, x)), beside(high, x))


class _NActivation(torch.autograd.Function):
    """Each threshold has a gradient where it is used, also where both are equal."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        between = torch.minimum(torch.maximum(x, beside(low, x)), beside(high, x))
        return x - 2 * between, between > x, between < x

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        keep(ctx, *output[1:])

    @staticmethod
    def backward(ctx, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        below, above = ctx.saved_tensors
        others = [axis for axis in range(grad.dim()) if axis != 1]
        below, above = grad * below, grad * above  # faster than `where` on a CPU
        return 2 * (below + above) - grad, -2 * below.sum(others), -2 * above.sum(others)

    @staticmethod
    def tangent(ctx, *tangents: Tensor | None) -> tuple[Tensor, None, None]:
        x, *thresholds = tangents
        y = 0.0 if x is None else 2 * (x * sum(ctx.saved_tensors)) - x
        for masked, threshold in zip(ctx.saved_tensors, thresholds, strict=True):
            if threshold is not None:
                y = y - 2 * (masked * beside(threshold, masked))
        return y, None, None  # pyright: ignore[reportReturnType]


@op("NActivation")
class _NActivationOp(AbstractOp):
    """x - 2 min(max(x, low), high), for a pair low <= high of each channel."""

    proof = "continuous, with slopes 1 and -1"
    helper = '''
def n_activation(x, low, high):
    """Slope 1 below `low`, -1 up to `high`, 1 above."""
    low, high = (end.reshape(-1, *[1] * (x.dim() - 2)) for end in (low, high))
    return x - 2 * torch.minimum(torch.maximum(x, low), high)
'''

    def gains(self, site: Site) -> tuple[float, ...]:
        return (1.0,)

    def rounding(self, site: Site) -> Rounding:
        r"""The difference alone is rounded, and one to spare; :math:`|f(x)| \le |x| + |f(0)|`.

        Twice what is between the thresholds is at most :math:`2 |x| + |f(0)|`.
        """
        low, high = (site.tensors[role].double() for role in ("low", "high"))
        at_zero = 2 * torch.minimum(low.clamp(min=0.0), high)
        places = site.entries[1] // site.shape[0]
        return Rounding(2, 2.0, up_product(norm_upper(at_zero), up_root(float(places))))

    def run(self, site: Site, *x: Tensor) -> Tensor:
        return n_activation(x[0], *(like(site.tensors[role], x[0]) for role in ("low", "high")))

    def emit(self, e: Any, site: Site, *x: str) -> None:
        axes = range(1, len(site.shape))
        low, high = (
            e.unsqueezed(f"{role}_at", held, axes)
            for role, held in zip(("low", "high"), e.held(site, "low", "high"), strict=True)
        )
        above = e.node("Max", [*x, low], "above")
        between = e.node("Min", [above, high], "between")
        e.node("Sub", [*x, e.node("Mul", [between, e.number("two", 2.0)], "twice")])

    def source(self, site: Site, *x: str) -> str:
        ends = ", ".join(f"self.{site.node.name}_{role}" for role in ("low", "high"))
        return f"n_activation({x[0]}, {ends})"
