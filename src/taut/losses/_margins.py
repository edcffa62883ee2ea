"""By how much the logits of a model may move, as losses are given it while the model trains."""

import math
from typing import Any, final

import torch
from torch import Tensor, nn

from taut._arguments import check_module, whole
from taut._sharding import is_sharded
from taut.losses._norm_estimate import NormEstimate, layer_to_follow, weight_at
from taut.parametrizations import cached, projected
from taut.program import Program, check_precision, composition_of, head_of, shares_of, trace

_STEPS = 6
"""Of Lanczos' method, from one optimiser step to the next."""


@final
class Margins:
    r"""Margin bounds with gradients: the rows of the last layer, and a Lipschitz constant.

    Losses such as :class:`taut.losses.EMMA` take both, `loss(logits, labels, **margins())`. Make it
    anew at the start of each epoch, and call :meth:`update_` after each optimiser step.

    The constant is proven once, of the features that the last layer reads (of the logits, if the
    model does not end in a matrix). From then on it is estimated, as

    .. math:: L(\theta) = L(\theta_0) \prod_i \Bigl(\frac{\sigma_i(\theta)}{\sigma_i(\theta_0)}
        \Bigr)^{s_i}, \qquad \sigma_i(\theta) = \| W_i(\theta)\, v_i \|

    over the convolutions and matrices W that promise no constant: those of :class:`taut.LiRes`,
    :class:`taut.OSSN` and :class:`taut.SVCM`, and torch's own. :math:`v_i` is the direction that
    the operator stretches most, with its padding, its stride and the size of its input, by Lanczos'
    method; it is constant to the gradient. :math:`s_i` is 1 for layers in series, as in LiResNet.
    In branches that are added it is the branch's share at the start: right to first order. A layer
    in front of a batch norm is followed without it. All else counts as it was at the start.

    Guarantee: none, but for the number at the start. Certificates always come from a proof.
    Cost: a proof, then `iterations` applications of each W and of its adjoint; for each step seven
        of W and six of the adjoint, on a single input. Nothing for layers that promise a constant.

    Args:
        model: with a proven bound; left as it is.
        input_shape: shape of one input, without the batch.
        iterations: steps of Lanczos' method, at the start.

    Attributes:
        bound: the proven constant, a number.
        head: path of the last layer in the model, if the model ends in one with a matrix `weight`;
            None if it does not.
        layers: names of the operations whose norm is followed.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) as `taut.certify` does.
        ValueError: if the model is sharded, or `iterations` below 1.

    Reference:
        Hu et al. (2023), *Unlocking Deterministic Robustness Certification on ImageNet*,
        arXiv:2301.12549, whose constant is a product of such estimates.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3))
        >>> margins = Margins(model, (2,))
        >>> margins.head, margins.layers, margins()["bound"].requires_grad
        ('2', ('0',), True)
    """

    def __init__(
        self, model: nn.Module, input_shape: tuple[int, ...], *, iterations: int = 30
    ) -> None:
        check_module(model)
        whole("iterations", iterations)
        if any(map(is_sharded, model.parameters())):
            raise ValueError("`model` must not be sharded; use DDP, or give losses a number.")
        self.model = model
        still = projected(model).eval()
        with torch.no_grad(), cached():
            program = trace(still, input_shape)
            check_precision(still, program)
        proven = composition_of(program, "real")
        self.head, self._factors, value = _head(still, program)
        self.bound = proven.composed.constants[value]
        sites = {site.node.name: site for site in program.sites()}
        found = {name: layer_to_follow(model, still, site) for name, site in sites.items()}
        calls = {name: layer for name, layer in found.items() if layer is not None}
        shares = shares_of(program, proven, value, calls)
        self._calls = {n: NormEstimate(layer, sites[n], shares[n]) for n, layer in calls.items()}
        followed = {n: call for n, call in self._calls.items() if call.share > 0}
        for call in followed.values():
            call.begin(still.get_submodule(call.site.node.path), iterations)
        self._followed = {n: call for n, call in followed.items() if call.start > 0}

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the operations whose norms are tracked."""
        return tuple(self._followed)

    def __call__(self) -> dict[str, Any]:
        """What losses are given by name: `bound`, a tensor where any layer is followed; `head`."""
        return {"bound": self.estimate(), "head": self.rows()}

    def estimate(self) -> float | Tensor:
        """The constant with its gradient; without one if no layer is tracked."""
        return math.prod((call.factor() for call in self._followed.values()), start=self.bound)

    def rows(self) -> Tensor | None:
        """The matrix of the last layer times the factors behind it, with its own gradient."""
        weight = None if self.head is None else weight_at(self.model, self.head)
        if weight is None:
            return None
        rows = weight.flatten(1)
        return rows if self._factors is None else rows * self._factors.to(rows)[:, None]

    def update_(self) -> None:
        """Update the singular vectors of the layers after an optimiser step."""
        for call in self._followed.values():
            call.follow(_STEPS)

    def state_dict(self) -> dict[str, Tensor]:
        """The constant, the factors and the singular vectors, to resume within an epoch."""
        state = {"bound": torch.tensor(self.bound, dtype=torch.float64, device="cpu")}
        state |= {} if self._factors is None else {"factors": self._factors}
        for name, call in self._followed.items():
            state |= {f"{name}.{key}": tensor for key, tensor in call.state().items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state of the same model, whose tensors may have changed since."""
        names = {key.rsplit(".", 1)[0] for key in state if "." in key}
        keys = {"bound", *(f"{name}.{key}" for name in names for key in ("direction", "numbers"))}
        if not names <= self._calls.keys() or keys != state.keys() - {"factors"}:
            raise ValueError(f"`state` must be of this model; got {sorted(state)}.")
        self.bound = float(state["bound"])
        self._factors = state.get("factors", self._factors)
        self._followed = {n: call for n, call in self._calls.items() if n in names}
        for name, call in self._followed.items():
            call.restore({key: state[f"{name}.{key}"] for key in ("direction", "numbers")})


def _head(still: nn.Module, program: Program) -> tuple[str | None, Tensor | None, str]:
    """The path of the last layer, the factors behind it, and the value that it reads."""
    head = head_of(program)
    if head is not None:
        path = next(node.path for node in program.nodes if node.name == head.node)
        with torch.no_grad():
            weight = weight_at(still, path)
        # Only a layer that applies its weight as it is.
        if weight is not None:
            rows = weight.flatten(1).cpu().double() * head.factors[:, None]
            if torch.equal(rows, head.rows):
                return path, head.factors if head.roundings else None, head.source
    return None, None, program.output
