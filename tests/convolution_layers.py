"""Layers of the library, and of torch, that have the arguments of a `Case`."""

from typing import Any

import torch
from torch import Tensor, nn

import taut
from convolution_oracles import Case, slow_matrix
from taut.parametrizations import AbstractParametrization

LAYERS = {
    (False, 1): taut.nn.Conv1d,
    (False, 2): taut.nn.Conv2d,
    (False, 3): taut.nn.Conv3d,
    (True, 1): taut.nn.ConvTranspose1d,
    (True, 2): taut.nn.ConvTranspose2d,
    (True, 3): taut.nn.ConvTranspose3d,
}
PLAIN = {
    (False, 1): nn.Conv1d,
    (False, 2): nn.Conv2d,
    (False, 3): nn.Conv3d,
    (True, 1): nn.ConvTranspose1d,
    (True, 2): nn.ConvTranspose2d,
    (True, 3): nn.ConvTranspose3d,
}


def layer_of(case: Case, method: type[AbstractParametrization] = taut.BCOP, **options: Any):
    """The layer with these arguments."""
    arguments: dict[str, Any] = {
        "stride": case.stride,
        "padding": case.padding,
        "dilation": case.dilation[: case.axes],
        "groups": case.groups,
        "padding_mode": case.mode,
        "parametrization": method,
    }
    if case.transposed:
        arguments["output_padding"] = case.output_padding[: case.axes]
    kind = LAYERS[case.transposed, case.axes]
    return kind(case.c_in, case.c_out, case.kernel, **arguments, **options)


def set_raw_(module: nn.Module, kind: str) -> None:
    """Fill the raw tensors: the same numbers for all dtypes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for raw in module.parameters():
            new = torch.randn(raw.shape, generator=generator, dtype=torch.float64)
            if kind == "12 decades" and raw.dim() > 1:
                new *= torch.logspace(0, -12, raw.shape[-2], dtype=torch.float64)[:, None]
            if kind == "rank-deficient" and raw.dim() > 1 and raw.numel():
                new[..., -1] = new[..., 0] if raw.shape[-1] > 1 else 0
            raw.copy_(new * {"huge": 1e6, "tiny": 1e-6, "zero": 0.0}.get(kind, 1.0))


def matrix_of(case: Case, weight: Tensor) -> Tensor:
    """The matrix of the layer with this weight, by index arithmetic."""
    return torch.from_numpy(slow_matrix(case, weight.detach().double().numpy()))
