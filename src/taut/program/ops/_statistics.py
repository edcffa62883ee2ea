r"""Normalisation by statistics of the sample itself.

Each divides by a root of the mean square plus `eps`, or by the larger of a norm and `eps`. So its
Lipschitz constant is that at the point where all entries are equal, or 0, and grows without bound
as `eps` goes to 0: it is sharp, and mostly far too large to be of use.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.operator import NormBound
from taut.linalg.rounding import up_divide, up_product, up_root, up_sum
from taut.program._call import Call
from taut.program._op import AbstractOp, captures, like, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError
from taut.program.ops._normalisation import batch_norm

__all__: list[str] = []

_LEAST = 0.01
"""The least `eps` with a rule: below it a bound is true, and larger than any that is of use."""


class AbstractStandardisation(AbstractOp):
    r"""diag(w) z / sqrt(|z|^2 / n + eps) + b, z the n entries of a part, less their mean or not.

    With :math:`s = |z|^2 / n + \epsilon`, the Jacobian is
    :math:`\mathrm{diag}(w) \, s^{-1/2} (I - z z^\top / (n s)) P`, P the projection onto what is
    left of a part. What stands in brackets has the eigenvalues 1 and :math:`\epsilon / s`; the norm
    is at most :math:`\max |w| / \sqrt \epsilon`, attained at z = 0 where w is constant.
    """

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """The largest scale over the root of eps."""
        root = math.nextafter(math.sqrt(site.args["eps"]), 0.0)
        weight = site.tensors.get("weight")
        largest = 1.0 if weight is None else weight.detach().double().abs().max().item()
        proof = f"divides by no less than sqrt(eps), eps = {site.args['eps']:g}"
        return (NormBound(up_divide(largest, root), proof),)

    def _affine(self, site: Site, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        held = site.tensors
        return tuple(like(held[r], x) if r in held else None for r in ("weight", "bias"))  # pyright: ignore[reportReturnType]


@op("layer_norm")
class LayerNorm(AbstractStandardisation):
    """The last axes of a sample, less their mean; weights of their shape."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Normalise."""
        weight, bias = self._affine(site, x[0])
        return F.layer_norm(x[0], site.args["shape"], weight, bias, site.args["eps"])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """ONNX has no scale left out."""
        if "weight" not in site.tensors:
            raise ValueError("it must have a scale")
        options = {"axis": -len(site.args["shape"]), "epsilon": site.args["eps"]}
        e.node("LayerNormalization", [*x, *e.held(site, "weight", "bias")], **options)


@op("rms_norm")
class RMSNorm(AbstractStandardisation):
    """The last axes of a sample, with their mean; weights of their shape."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Normalise."""
        weight, _ = self._affine(site, x[0])
        return F.rms_norm(x[0], site.args["shape"], weight, site.args["eps"])


@op("group_norm")
class GroupNorm(AbstractStandardisation):
    """Groups of channels, less their mean; weights of channels."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Normalise."""
        weight, bias = self._affine(site, x[0])
        return F.group_norm(x[0], site.args["groups"], weight, bias, site.args["eps"])


@op("instance_norm")
class InstanceNorm(AbstractStandardisation):
    """Each channel, less its mean; weights of channels."""

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Normalise."""
        weight, bias = self._affine(site, x[0])
        return F.instance_norm(x[0], None, None, weight, bias, eps=site.args["eps"])


@op("normalize")
class Normalize(AbstractOp):
    """x / max(|x|, eps) along axes: the nearest point of the ball of radius eps, divided by eps.

    The nearest point of a convex set is a 1-Lipschitz function; inside of the ball it is x.
    """

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """The inverse of eps."""
        eps = site.args["eps"]
        return (NormBound(up_divide(1.0, eps), f"divides by no less than eps = {eps:g}"),)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Normalise."""
        dims: Any = tuple(axis + 1 for axis in site.args["axes"])
        return F.normalize(x[0], 2.0, dims, site.args["eps"])


@op("local_response_norm")
class LocalResponseNorm(AbstractOp):
    r"""x / D^b, D = k + a |w|^2 / n for the window w of n channels around each.

    Row i of the Jacobian is :math:`D^{-b} e_i - 2 b (a / n) D^{-b-1} x_i w`. The first part has a
    norm of at most :math:`k^{-b}`. As :math:`(a / n) |x_i| |w| \le D - k`, the second moves entry i
    by :math:`2 b (D - k) D^{-b-1}` times its window at most, and an entry is in n windows. That is
    largest at :math:`D = k (b + 1) / b`, where it is :math:`2 k^{-b} (b / (b + 1))^{b + 1}`.
    """

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """Both parts together."""
        beta, k = site.args["beta"], site.args["k"]
        # 2^-40 covers the rounding of powers in float64.
        direct = up_product(k**-beta, 1 + 2.0**-40)
        moved = 2 * (beta / (beta + 1)) ** (beta + 1)
        share = up_product(moved, up_root(float(site.args["size"])), 1 + 2.0**-40)
        value = up_product(direct, up_sum(1.0, share))
        return (NormBound(value, "1 / k^beta, and the change of the divisor"),)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Normalise."""
        return F.local_response_norm(x[0], **site.args)


# What calls of torch are.


def _eps(eps: Any) -> float:
    if not (isinstance(eps, float | int) and 0 < eps < math.inf):
        raise UnprovenError(f"it has no Lipschitz constant unless `eps` is above 0; got {eps}")
    if eps < _LEAST:
        raise UnprovenError(
            "it divides by what the data are: where they are constant its slope is 1 / sqrt(eps) = "
            f"{eps**-0.5:.4g}, too steep for a bound of use; `eps` must be at least {_LEAST}"
        )
    return float(eps)


def _held(c: Call, weight: Tensor | None, bias: Tensor | None) -> dict[str, Tensor | None]:
    pairs = (("weight", weight), ("bias", bias))
    return {role: None if t is None else c.constant(t) for role, t in pairs}


def _check_inside(input: Tensor, shape: Sequence[int]) -> list[int]:
    if len(shape) >= input.dim():
        raise UnprovenError("it normalises over the batch")
    return [int(n) for n in shape]


@captures("layer_norm")
def layer_norm(c: Call, input: Tensor, normalized_shape: Any, weight: Tensor | None = None,
               bias: Tensor | None = None, eps: Any = 1e-5, *_: Any) -> str:  # fmt: skip
    """Layer norm."""
    args = {"shape": _check_inside(input, normalized_shape), "eps": _eps(eps)}
    return c.add("layer_norm", [c.name(input)], args=args, tensors=_held(c, weight, bias))


@captures("rms_norm")
def rms_norm(c: Call, input: Tensor, normalized_shape: Any, weight: Tensor | None = None,
             eps: Any = None) -> str:  # fmt: skip
    """RMS norm; without an eps it is that of the precision."""
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    args = {"shape": _check_inside(input, normalized_shape), "eps": _eps(eps)}
    return c.add("rms_norm", [c.name(input)], args=args, tensors=_held(c, weight, None))


@captures("group_norm")
def group_norm(c: Call, input: Tensor, num_groups: int, weight: Tensor | None = None,
               bias: Tensor | None = None, eps: Any = 1e-5, *_: Any) -> str:  # fmt: skip
    """Group norm."""
    args = {"groups": num_groups, "eps": _eps(eps)}
    return c.add("group_norm", [c.name(input)], args=args, tensors=_held(c, weight, bias))


@captures("instance_norm")
def instance_norm(c: Call, input: Tensor, *args: Any, **kwargs: Any) -> str:
    """Instance norm; with running statistics that are constant it is a batch norm."""
    names = ["running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"]
    if len(args) > len(names):  # torch.instance_norm and aten's
        names = [*names[2:4], *names[:2], *names[4:], "cudnn_enabled"]
    given: dict[str, Any] = dict(zip(names, args, strict=False))
    given |= kwargs
    running = {key: given.get(key) for key in ("running_mean", "running_var")}
    weight, bias, eps = given.get("weight"), given.get("bias"), given.get("eps", 1e-5)
    if not given.get("use_input_stats", True):
        return batch_norm(c, input, **running, weight=weight, bias=bias, eps=eps)
    if running["running_mean"] is not None:
        raise UnprovenError("it moves its running statistics in training; call model.eval() first")
    return c.add(
        "instance_norm", [c.name(input)], args={"eps": _eps(eps)}, tensors=_held(c, weight, bias)
    )


@captures("normalize")
def normalize(c: Call, input: Tensor, p: Any = 2.0, dim: Any = 1, eps: Any = 1e-12,
              out: Any = None) -> str:  # fmt: skip
    """Vectors of norm 1, or less near 0."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if p != 2 or any(d % input.dim() == 0 for d in dims):
        raise UnprovenError("`p` must be 2, and `dim` not the batch")
    if 0 < eps < _LEAST:
        raise UnprovenError(
            f"it is not Lipschitz at 0, where only its eps bounds its slope, by 1 / eps = "
            f"{1 / eps:.4g}; `eps` must be at least {_LEAST}"
        )
    args = {"axes": sorted(d % input.dim() - 1 for d in dims), "eps": _eps(eps)}
    return c.add("normalize", [c.name(input)], args=args)


@captures("local_response_norm")
def local_response_norm(c: Call, input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75,
                        k: float = 1.0) -> str:  # fmt: skip
    """Channels divided by those around them."""
    if not (alpha >= 0 and 0 <= beta <= 10 and 1e-10 <= k <= 1e10):
        raise UnprovenError(
            "`k` must be in [1e-10, 1e10], `beta` in [0, 10] and `alpha` not below 0; got "
            f"{k}, {beta}, {alpha}"
        )
    args = {"size": size, "alpha": float(alpha), "beta": float(beta), "k": float(k)}
    return c.add("local_response_norm", [c.name(input)], args=args)


# What nodes of ONNX are, as functions of torch.


@reads("LayerNormalization")
def _layer_normalization(x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1,
                         epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:  # fmt: skip
    if axis % x.dim() == 0:
        raise ValueError("it must not normalise over the batch")
    return F.layer_norm(x, x.shape[axis % x.dim() :], scale, bias, epsilon)
