"""Normalisation by statistics that are constants."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.computed_kernel import ComputedKernel
from taut.linalg.operator import NormBound
from taut.linalg.rounding import up_product, up_root
from taut.program._call import Call
from taut.program._op import AbstractOp, Rounding, captures, like, norm_upper, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError

__all__: list[str] = []

_SCALED = 1 + 2.0**-40
_ROLES = ("running_mean", "running_var", "weight", "bias")


@op("batch_norm")
class BatchNorm(AbstractOp):
    """A scale and a shift of each channel."""

    affine = True

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """The largest scale; the variance and its eps are added in any precision."""
        variance = site.tensors["running_var"].detach().cpu()
        eps = site.args["eps"]
        if eps < 0 or not bool((variance >= 0).all()):
            raise UnprovenError("its variance and its eps must not be below 0")
        lowest = torch.minimum((variance + eps).double(), variance.double() + eps)
        root = _next(_next(lowest, 0.0).sqrt(), 0.0)
        weight = site.tensors.get("weight")
        scale = torch.ones_like(root) if weight is None else weight.detach().cpu().double()
        largest = _next(scale.abs() / root, math.inf).max().item()
        if not math.isfinite(largest):
            raise UnprovenError("its weights hold NaN or Inf")
        return (
            NormBound(up_product(largest, 1 + torch.finfo(variance.dtype).eps), "largest scale"),
        )

    def as_kernel(self, site: Site, *, last: bool) -> ComputedKernel | None:
        """A factor for each channel, in real arithmetic."""
        if last and len(site.shape) > 1:
            return None
        wide = {role: t.detach().cpu().double() for role, t in site.tensors.items()}
        factors = (wide["running_var"] + site.args["eps"]).sqrt().reciprocal()
        weight = wide.get("weight", torch.ones_like(factors))
        factors = factors * weight
        if bool(((factors == 0) & (weight != 0)).any()):
            return None  # one underflows
        return ComputedKernel.channelwise(factors, site.shape[1:], 8)

    def rounding(self, site: Site) -> Rounding:
        r"""Each way to order (x - mean) / sqrt(var + eps) * weight + bias.

        The root of the sum passes 4 roundings (eps, sum, root, inversion; two more where a device
        has its own inverse root), then one for each factor and term: 16 are more than any order
        takes.
        """
        wide = {role: t.detach().cpu().double() for role, t in site.tensors.items()}
        if not bool((wide["running_var"] + site.args["eps"] >= 2.0**-100).all()):
            raise UnprovenError("its variance is below 2^-100, so that float32 may divide by 0")
        inverse = (wide["running_var"] + site.args["eps"]).rsqrt()
        factor = inverse
        if "weight" in wide:
            factor = torch.maximum(inverse, (inverse * wide["weight"]).abs())
        factor = factor.clamp_min(1.0) * _SCALED
        added = wide["running_mean"].abs() * factor
        added = added + wide["bias"].abs() if "bias" in wide else added
        positions = float(math.prod(site.shapes[0][1:]))
        constant = up_product(norm_upper(added), up_root(positions), _SCALED)
        return Rounding(16, factor.max().item(), constant)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Normalise."""
        held = [like(site.tensors[role], x[0]) if role in site.tensors else None for role in _ROLES]
        mean, variance, weight, bias = held
        return F.batch_norm(x[0], mean, variance, weight, bias, eps=site.args["eps"])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A batch norm; ONNX has no scale or shift left out."""
        if not {"weight", "bias"} <= site.tensors.keys():
            raise ValueError("it must have a scale and a shift")
        held = e.held(site, "weight", "bias", "running_mean", "running_var")
        e.node("BatchNormalization", [*x, *held], epsilon=site.args["eps"])

    def source(self, site: Site, *x: str) -> str:
        """A layer of torch."""
        return f"self.{site.node.name}({x[0]})"


def _next(values: Tensor, towards: float) -> Tensor:
    return values.nextafter(torch.full_like(values, towards))


@captures("batch_norm")
def batch_norm(c: Call, input: Tensor, *args: Any, **kwargs: Any) -> str:
    """By running statistics; functional and compiled calls order their arguments differently."""
    names = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    if len(args) > 6:  # torch.batch_norm and aten's
        names = (
            "weight",
            "bias",
            "running_mean",
            "running_var",
            "training",
            "momentum",
            "eps",
            "cudnn_enabled",
        )
    values: dict[str, Any] = dict(zip(names, args, strict=False)) | kwargs
    if values.get("running_mean") is None or values.get("running_var") is None:
        raise UnprovenError("batch norm without running statistics mixes the samples")
    if values.get("training", False):
        raise UnprovenError("batch norm in training mixes the samples; call model.eval() first")
    held = {role: c.constant(values[role]) for role in _ROLES if values.get(role) is not None}
    return c.add("batch_norm", [c.name(input)], args={"eps": values.get("eps", 1e-5)}, tensors=held)


# What nodes of ONNX are, as functions of torch.


@reads("BatchNormalization")
def _batch_normalization(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *,
                         epsilon: float = 1e-5, momentum: float = 0.9,
                         training_mode: int = 0) -> Tensor:  # fmt: skip
    return F.batch_norm(x, mean, variance, scale, bias, bool(training_mode), eps=epsilon)
