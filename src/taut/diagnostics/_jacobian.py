"""The spectrum of the Jacobian from image to output."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from taut._sharding import gathers
from taut.diagnostics._record import ForwardRecord, recorded

MAX_JACOBIAN_OUTPUTS = 1024
"""Outputs of the largest model whose Jacobian is computed."""


@gathers
def jacobian_singular_values(
    model: nn.Module, images: Float[Tensor, "b *shape"]
) -> Float64[Tensor, "b s"]:
    r"""Exact singular values of the Jacobian from each image to the output.

    If all are 1 (dynamical isometry), the model neither stretches nor loses what the output says
    about the image. Rows come from backward passes of the whole batch in the precision of the
    model; singular values are computed in float64.

    Cost: one forward pass, one backward pass per output, one SVD per image.

    Args:
        model: as :func:`gradient_norms`.
        images: a batch, floating point.

    Returns:
        The min(outputs, inputs) values of each image, descending.

    Raises:
        ValueError: if the model has more than `MAX_JACOBIAN_OUTPUTS` outputs, and as
            :func:`gradient_norms`.

    Reference:
        Saxe, McClelland, Ganguli (2014), *Exact solutions to the nonlinear dynamics of learning in
        deep linear neural networks*; arXiv:1312.6120. Pennington, Schoenholz, Ganguli (2017),
        *Resurrecting the sigmoid in deep learning through dynamical isometry*; arXiv:1711.04735.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), taut.nn.Linear(9, 4), taut.nn.MaxMin())
        >>> jacobian_singular_values(model, torch.rand(2, 1, 3, 3)).round(decimals=4)
        tensor([[1., 1., 1., 1.],
                [1., 1., 1., 1.]], dtype=torch.float64)
    """
    with recorded(model, images) as record:
        if (outputs := record.output.shape[1]) > MAX_JACOBIAN_OUTPUTS:
            raise ValueError(
                f"`model` must have at most {MAX_JACOBIAN_OUTPUTS} outputs for its Jacobian to be "
                f"computed; got {outputs}."
            )
        return jacobian_of(record)


def jacobian_of(record: ForwardRecord) -> Float64[Tensor, "b s"]:
    """As `jacobian_singular_values`, of a recorded batch."""
    outputs = range(record.output.shape[1])
    jacobians = torch.stack([record.jacobian_row(i).flatten(1) for i in outputs], 1)  # (b, k, n)
    return torch.stack([torch.linalg.svdvals(matrix.double()) for matrix in jacobians]).cpu()
