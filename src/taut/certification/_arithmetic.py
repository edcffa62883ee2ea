"""What the certified program computes in, and what must not be in its way."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from taut._arguments import check_tensor
from taut.linalg.precision import ONEDNN_VARIABLES, reduced_settings
from taut.linalg.rounding import next_up
from taut.program import UnprovenError

__all__ = [
    "ARITHMETICS",
    "Arithmetic",
    "as_arithmetic",
    "check_arithmetic",
    "conventional",
    "l2_distance_upper",
    "norms_upper",
]

Arithmetic = Literal["float64", "float32", "real"]
ARITHMETICS: tuple[Arithmetic, ...] = ("float64", "float32", "real")


def as_arithmetic(name: str) -> Arithmetic:
    """The arithmetic of that name."""
    for arithmetic in ARITHMETICS:
        if arithmetic == name:
            return arithmetic
    raise ValueError(f"`arithmetic` must be one of {', '.join(ARITHMETICS)}; got {name!r}.")


def check_arithmetic(arithmetic: str, tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Refuse settings and weights that the arithmetic's proof does not cover."""
    if arithmetic != "float32":
        return
    for name, tensor in tensors.items():
        # Whole numbers are places, or constants whose rounding is counted.
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise UnprovenError(
                f"`{name}` must be float32 for arithmetic='float32', as all that is computed from "
                f"it would be in its own precision; got {tensor.dtype}."
            )
    for setting, value in reduced_settings(device):
        mend = _MEND.get(setting, "set it to 'ieee'")
        raise UnprovenError(
            "A float32 certificate needs products and convolutions in float32; "
            f"{setting} is {value!r}: {mend}."
        )


_MEND = {
    "torch.get_float32_matmul_precision()": "call torch.set_float32_matmul_precision('highest')",
    "torch.backends.cudnn.allow_tf32": "set torch.backends.cudnn.allow_tf32 = False",
    **dict.fromkeys(ONEDNN_VARIABLES, "unset this variable before Python starts"),
}


@contextmanager
def conventional() -> Iterator[None]:
    """Convolutions as sums of products: no Winograd, no FFT, which round otherwise.

    cuDNN and NNPACK may choose those in float32; the other paths of torch do not.
    """
    with _SWITCHES:
        yield


class _Switches:
    """The switches of the process, off while anybody in any thread needs them off."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.before = (True, True)

    def __enter__(self) -> None:
        with self.lock:
            if not self.users:
                nnpack = torch.backends.nnpack.set_flags(False)
                self.before = torch.backends.cudnn.enabled, nnpack[0]
                torch.backends.cudnn.enabled = False
            self.users += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                torch.backends.cudnn.enabled = self.before[0]
                torch.backends.nnpack.set_flags(self.before[1])


_SWITCHES = _Switches()


def norms_upper(x: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    r"""Upper bound of the l2 norm of each sample, computed in float64.

    The n squares are summed in any order: a relative error of at most :math:`\gamma_{n+2}`. The
    samples are scaled by a power of two so that no square that matters underflows.
    """
    wide = x.detach().flatten(1).double()
    largest = wide.abs().amax(1) if wide.shape[1] else wide.new_zeros(len(wide))
    exponent = torch.frexp(largest).exponent.clamp(-1000, 1000)
    scale = torch.ldexp(torch.ones_like(largest), exponent)
    n = wide.shape[1] + 8  # for the squares, the root and the factors here as well
    grown = 1 + 2 * n * 2.0**-53 + 2.0**-60 * n
    root = (wide / scale[:, None]).square().sum(1).mul(grown).sqrt() * (1 + 2.0**-51)
    return torch.where(largest == 0, 0.0, next_up(root * scale))


def l2_distance_upper(x: Float[Tensor, "b ..."], y: Float[Tensor, "..."]) -> Float[Tensor, " b"]:
    r"""Upper bound of the l2 distance of each pair of samples, computed in float64.

    A certificate speaks of exact distances. One computed in float32 may come out too small, so that
    a perturbation seems to lie within a radius and does not; hold this one against the radius.

    Args:
        x: a batch.
        y: a batch of the same shape.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> x = torch.tensor([[0.1, 0.2]])
        >>> l2_distance_upper(x, x + 1)[0] >= 2**0.5
        tensor(True)
    """
    check_tensor("x", x)
    check_tensor("y", y)
    if x.shape != y.shape or x.dim() < 1:
        raise ValueError(
            f"`x` and `y` must be batches of the same shape; got {tuple(x.shape)} and "
            f"{tuple(y.shape)}."
        )
    difference = (x.detach().double() - y.detach().double()).abs()
    return norms_upper(torch.where(difference == 0, 0.0, next_up(difference)))
