r"""How much the gradient of one example can be: bounds of the norm, one for each parameter.

For a layer :math:`y = W x` inside a net with the loss :math:`\ell`, the gradient of one example is
:math:`g x^\top` with :math:`g = \partial \ell / \partial y`, so its norm is at most
:math:`\|g\| \, \|x\|`. Norms of values are bounded forwards from that of the input, norms of g
backwards from the constant of the loss, both by the proven gains of the operations between. A
convolution is a matrix on windows; where a pixel is in at most n of them, all windows together
have at most :math:`\sqrt n` times the norm of the image. A bias has the gradient
:math:`\sum_p g_p` over p places, at most :math:`\sqrt p \, \|g\|`.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from taut._arguments import positive
from taut.linalg.convolution import ConvOperator
from taut.linalg.retraction import nearest_orthonormal
from taut.linalg.rounding import up_product, up_root, up_root_sum_square, up_sum
from taut.private._losses import Loss, loss_bound
from taut.program import Program, Site, UnprovenError, bounds_of, operation, replay, trace

_LAYERS = ("linear", "conv")


@final
class Sensitivities:
    """The bounds of one model, computed anew for the weights of each step.

    Weights may be read: what they hold of the data went through the noise of earlier steps.
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.program = trace(model, input_shape)
        _check_trained(self.program, self.parameters)
        _check_gradients(model, self.program, self.parameters)
        sites = self.program.sites()
        self.windows = {site.node.name: _windows(site) for site in sites}
        self.gains = {site.node.name: _gains(site) for site in sites}
        for site in sites:
            _check_zero(site)

    def sites(self) -> list[Site]:
        """The operations, with the weights of now."""
        now = {name: p.detach() for name, p in self.parameters.items()}
        return replace(self.program, tensors={**self.program.tensors, **now}).sites()

    def bounds(self, input_norm: float, slope: float) -> dict[str, float]:
        """The largest norm of the gradient of one example, by the name of the parameter.

        Args:
            input_norm: largest norm of an input.
            slope: Lipschitz constant of the loss in the output.
        """
        sites = self.sites()
        norms, slopes = {self.program.source: input_norm}, {self.program.output: slope}
        for site in sites:
            if _is_trained(site, self.parameters):
                self.gains[site.node.name] = _gains(site)
            norms[site.node.name] = self._norm(site, norms)
        result = dict.fromkeys(self.parameters, 0.0)
        for site in reversed(sites):
            name = site.node.name
            for role, tensor in site.node.tensors.items():
                if tensor in result:
                    own = self._own(site, role, norms)
                    result[tensor] = up_sum(result[tensor], up_product(slopes[name], own))
            for source, gain in zip(site.node.inputs, self.gains[name], strict=True):
                through = up_product(gain, slopes[name])
                slopes[source] = up_sum(slopes.get(source, 0.0), through)
        return result

    @torch.no_grad()
    def project_(self) -> None:
        """Orthonormalise the rows or columns of each weight, and divide it by a norm above 1."""
        for site in self.sites():
            weight = self.parameters.get(site.node.tensors.get("weight", ""))
            if weight is None:
                continue
            matrix = weight.flatten(1)
            tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
            near = nearest_orthonormal(tall)
            weight.copy_((near if tall is matrix else near.mT).view_as(weight))
            norm = _gains(replace(site, tensors={**site.tensors, "weight": weight.detach()}))[0]
            if norm > 1.0:
                weight.div_(norm * (1 + 8 * torch.finfo(weight.dtype).eps))

    def _norm(self, site: Site, norms: Mapping[str, float]) -> float:
        """A bound of the norm of a value."""
        pairs = zip(self.gains[site.node.name], site.node.inputs, strict=True)
        parts = [up_product(gain, norms[source]) for gain, source in pairs]
        joined = operation(site).combine == "root"
        norm = up_root_sum_square(*parts) if joined else up_sum(*parts)
        if "bias" not in site.tensors:
            return norm
        bias = up_root_sum_square(*site.tensors["bias"].double().abs().flatten().tolist())
        return up_sum(norm, up_product(up_root(_places(site)), bias))

    def _own(self, site: Site, role: str, norms: Mapping[str, float]) -> float:
        """By how much a parameter moves the output of its layer."""
        if role == "bias":
            return up_root(_places(site))
        return up_product(up_root(self.windows[site.node.name]), norms[site.node.inputs[0]])


def sensitivities(
    model: nn.Module, input_shape: tuple[int, ...], *, input_norm: float, loss: Loss
) -> dict[str, float]:
    r"""Bound the norm of the gradient of one example, for each parameter that is trained.

    By so much the sum of gradients over a data set moves if one example is added or removed. (If
    one is replaced, by twice as much.)

    Guarantee: no input of a norm of at most `input_norm`, and no label, has a larger gradient, in
        real arithmetic with exactly these weights; bounds are rounded up.
    Cost: a record of the model, and a norm bound for each layer.

    Args:
        model: of `torch.nn.Linear`, `torch.nn.Conv1d`, `Conv2d` and `Conv3d`, with or without
            biases, and of anything without trained parameters that taut bounds and that maps 0 to
            0: activations, pools, sums.
        input_shape: shape of one input, without the batch.
        input_norm: largest l2 norm of an input.
        loss: see :func:`loss_bound`.

    Returns:
        The bounds, by the name of the parameter.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) if an operation or a parameter has no
            rule; it is named.
        ValueError: if an argument is out of range.

    Reference:
        Bethune, Massena, Boissin et al. (2024), *DP-SGD Without Clipping: The Lipschitz Neural
        Network Way*, ICLR 2024, arXiv:2305.16202, backpropagation for bounds.

    Example:
        >>> layer = torch.nn.Linear(4, 2, bias=False)
        >>> bounds = sensitivities(layer, (4,), input_norm=3.0, loss=torch.nn.CrossEntropyLoss())
        >>> {name: round(bound, 4) for name, bound in bounds.items()}
        {'weight': 4.2426}
    """
    norm = positive("input_norm", input_norm)
    return Sensitivities(model, input_shape).bounds(norm, loss_bound(loss))


def project_(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Make each trained layer 1-Lipschitz in place; orthogonal where windows do not overlap.

    The matrix of a weight, with a row for each output, becomes the nearest one with orthonormal
    rows or columns, divided by the proven norm of the layer if that is above 1. No data are read,
    so it costs no privacy.

    Guarantee: each linear layer and convolution has a norm of at most 1 on this input shape.

    Args:
        model: as :func:`sensitivities` takes it.
        input_shape: shape of one input, without the batch.

    Raises:
        UnprovenError: as :func:`sensitivities`.

    Example:
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(3 * torch.eye(2))
        >>> project_(layer, (2,))
        >>> layer.weight.detach().round(decimals=4)
        tensor([[1., 0.],
                [0., 1.]])
    """
    Sensitivities(model, input_shape).project_()


def _gains(site: Site) -> tuple[float, ...]:
    return tuple(bound.value for bound in bounds_of(site))


def _is_trained(site: Site, parameters: Mapping[str, Tensor]) -> bool:
    return any(name in parameters for name in site.node.tensors.values())


def _places(site: Site) -> float:
    return float(math.prod(site.shape) // site.tensors["bias"].numel())


def _windows(site: Site) -> float:
    """How many windows of a convolution a pixel is in, at most."""
    operator = operation(site).operator(site) if site.node.op == "conv" else None
    if not isinstance(operator, ConvOperator):
        return 1.0
    ones = torch.ones_like(operator.kernel[:1, :1])
    windows = replace(operator, kernel=ones, groups=1)
    return float(windows.adjoint(torch.ones(1, *windows.out_shape)).max())


def _check_trained(program: Program, parameters: Mapping[str, Tensor]) -> None:
    """Refuse parameters that are anything else than weights and biases of known layers."""
    if len(program.shapes[program.output]) != 1:
        shape = program.shapes[program.output]
        raise UnprovenError(f"The model must return one row of logits for an input; got {shape}.")
    if not parameters:
        raise ValueError("`model` must have a parameter that is trained; got none.")
    known = set()
    for node in program.nodes:
        held = [name for name in node.tensors.values() if name in parameters]
        if held and node.op not in _LAYERS:
            raise UnprovenError(
                f"`{held[0]}` is a parameter of `{node.name}` ({node.type}), whose gradient has no "
                "proven bound: take torch.nn.Linear or Conv, or call requires_grad_(False)."
            )
        known.update(held)
    for name in parameters.keys() - known:
        raise UnprovenError(
            f"`{name}` is no weight or bias that a layer uses as it is, so its gradient has no "
            "proven bound: take layers of torch.nn, or call requires_grad_(False)."
        )


def _check_zero(site: Site) -> None:
    """Refuse operations that move zeros, but for biases: norms would grow by that."""
    if site.node.op in _LAYERS:
        return
    zeros = [torch.zeros(1, *shape, dtype=torch.float64) for shape in site.shapes]
    with torch.no_grad():
        moved = bool(operation(site).run(site, *zeros).any())
    if moved:
        raise UnprovenError(
            f"`{site.node.name}` ({site.node.type}) does not map 0 to 0, so the norm of its output "
            "has no proven bound."
        )


def _check_gradients(model: nn.Module, program: Program, parameters: Mapping[str, Tensor]) -> None:
    """Refuse models that use a parameter in another way than the recorded layers do."""
    wide = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(0)
    device = next(iter(parameters.values())).device
    x = torch.rand(3, *program.input_shape, generator=generator, dtype=torch.float64).to(device)
    held = {name: p.detach().double().requires_grad_() for name, p in parameters.items()}
    floats = {n: t.double() for n, t in program.tensors.items() if t.is_floating_point()}
    with torch.enable_grad():
        recorded = replay(replace(program, tensors={**program.tensors, **floats, **held}), x)
        probe = torch.rand(recorded.shape, generator=generator, dtype=torch.float64).to(device)
        expected = torch.autograd.grad((recorded * probe).sum(), list(held.values()))
        trained = [p for p in wide.parameters() if p.requires_grad]
        computed = torch.autograd.grad((wide(x) * probe).sum(), trained)
    for name, a, b in zip(parameters, computed, expected, strict=True):
        # Frozen layers may compute their weights anew in float64.
        if not torch.allclose(a, b, 0.0, 1e-5 * float(b.abs().max())):
            raise UnprovenError(
                f"`{name}` is used in more ways than as the weight of a layer, so its gradient has "
                "no proven bound."
            )
