r"""Centring: what LayerNorm and BatchNorm do without dividing by statistics of the data.

Less its mean along axes of a sample is an orthogonal projection. Less the mean of a batch mixes
its samples in training; in evaluation the mean is a constant, and the layer is a shift.
"""

import math
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from taut._arguments import axis, is_number, whole, wholes
from taut._sharding import draws
from taut.program import AbstractOp, UnprovenError, op


@final
class LayerCentering(nn.Module):
    r"""Subtract the mean over axes of a sample and add a bias: LayerNorm without the division.

    With `dim=(-2, -1)` each channel of an image loses its mean, with `dim=-1` each token, with
    `dim=(-3, -2, -1)` the whole image.

    Guarantee: an orthogonal projection and a shift: 1-Lipschitz in l2, and the same in training and
        in evaluation. Samples stay apart. What is constant along the axes is lost.
    Cost: two passes.

    Args:
        dim: the axes, none of them that of the batch.
        bias: the shape of a learnable bias, of a sample or such that it is broadcast to one, as
            `(8, 1, 1)` for images of 8 channels; None for none.
        device, dtype: of the bias.

    Raises:
        ValueError: if `dim` holds no axis, or that of the batch; (forward) if the input has no such
            axis, or the bias is larger than a sample.

    Reference:
        Ba et al. (2016), *Layer normalization*, eq. 3, without the division by sigma;
        arXiv:1607.06450.

    Example:
        >>> LayerCentering(-1)(torch.tensor([[1.0, 2.0, 6.0]]))
        tensor([[-2., -1.,  3.]])
    """

    def __init__(
        self,
        dim: int | tuple[int, ...] = -1,
        bias: tuple[int, ...] | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        axes = dim if isinstance(dim, tuple | list) else (dim,)
        self.dim = tuple(axis("dim", place) for place in axes)
        if not self.dim or 0 in self.dim:
            raise ValueError(
                f"`dim` must hold axes of a sample, which follow that of the batch, 0; got {dim}."
            )
        sizes = bias if isinstance(bias, tuple | list) else (bias,)
        shape = None if bias is None else wholes("bias", sizes, len(sizes))
        parameter = None if shape is None else torch.empty(shape, device=device, dtype=dtype)
        self.bias = None if parameter is None else nn.Parameter(parameter)
        self.reset_parameters()

    @draws
    def reset_parameters(self) -> None:
        """The bias is 0."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Subtract the mean."""
        n = input.dim()
        if not all(-n <= d < n for d in self.dim):
            raise ValueError(
                f"`dim` must hold axes of the input; got {self.dim}, shape {tuple(input.shape)}."
            )
        centred = input - input.mean(self.dim, keepdim=True)
        if self.bias is None:
            return centred
        shifted = centred + self.bias
        if shifted.shape != input.shape:
            raise ValueError(
                f"`bias` must be broadcast to the input; got shapes {tuple(self.bias.shape)} and "
                f"{tuple(input.shape)}."
            )
        return shifted

    def extra_repr(self) -> str:
        """The axes, and the shape of the bias."""
        bias = None if self.bias is None else tuple(self.bias.shape)
        return f"dim={self.dim}, bias={bias}"


class _AllReduce(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _AllReduce.forward(ctx, grad.contiguous())

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _AllReduce.forward(ctx, tangent.contiguous())


def _is_shared() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _over_processes(x: Tensor) -> Tensor:
    return _AllReduce.apply(x) if _is_shared() else x  # pyright: ignore[reportReturnType]


class _BatchStatistics(nn.Module):
    """Running statistics of channels, moved in training as torch's BatchNorm moves them."""

    running_mean: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        channels: int,
        momentum: float | None = 0.1,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.momentum = whole("channels", channels), momentum
        if momentum is not None and not (is_number(momentum) and 0 <= momentum <= 1):
            raise ValueError(f"`momentum` must be in [0, 1], or None; got {momentum}.")
        options = {"device": device, "dtype": dtype}
        self.register_buffer("running_mean", torch.empty(self.channels, **options))
        counter = torch.empty((), dtype=torch.long, device=device)
        self.register_buffer("num_batches_tracked", counter)
        self.bias = nn.Parameter(torch.empty(self.channels, **options)) if bias else None

    def reset_running_stats(self) -> None:
        """The statistics before the first batch."""
        nn.init.zeros_(self.running_mean)
        self.num_batches_tracked.zero_()

    @draws
    def reset_parameters(self) -> None:
        """The bias is 0, and the statistics are those before the first batch."""
        self.reset_running_stats()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """The channels."""
        return f"{self.channels}, momentum={self.momentum}, bias={self.bias is not None}"

    def _check(self, input: Tensor) -> None:
        if input.dim() < 2 or input.shape[1] != self.channels:
            raise ValueError(
                f"`input` must have shape (batch, {self.channels}, *spatial); "
                f"got {tuple(input.shape)}."
            )

    def _along_channels(self, values: Tensor, input: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * (input.dim() - 2))

    def _mean(self, input: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
        """The mean of each channel over all processes, and how many entries each has there."""
        entries = input.numel() // self.channels
        if entries < least and not _is_shared():
            raise ValueError(
                f"`input` must have {least} or more entries of each channel in training; "
                f"got {entries}."
            )
        sums = self._sums(input)
        totals = _over_processes(torch.cat([sums, sums.new_full((1,), float(entries))]))
        return totals[:-1] / totals[-1], totals[-1].detach()

    def _variance(self, input: Tensor, mean: Tensor, entries: Tensor) -> Tensor:
        """The biased variance of each channel over all processes."""
        centred = input - self._along_channels(mean, input)
        return _over_processes(self._sums(centred.square())) / entries

    def _sums(self, x: Tensor) -> Tensor:
        """Sums of each channel, as float32 at least.

        torch is slow unless it rounds sums of bfloat16 to bfloat16. Here those of single images
        are, whose errors cancel. Sums of float16 would overflow.
        """
        axes, wide = list(range(2, x.dim())), torch.promote_types(x.dtype, torch.float32)
        if x.dtype == torch.bfloat16 and axes:
            x, axes = x.sum(axes), []
        return x.sum([0, *axes], dtype=wide)

    def _move(self, *pairs: tuple[Tensor, Tensor]) -> None:
        """Running statistics towards those of the batch, as torch's BatchNorm does."""
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = self.momentum
            if share is None:
                share = 1.0 / self.num_batches_tracked.item()
            for running, value in pairs:
                running.lerp_(value.detach().to(running.dtype), share)


@final
class BatchCentering(_BatchStatistics):
    r"""Subtract the batch mean of each channel and add a bias: BatchNorm without the division.

    As torch's BatchNorm, and unlike all other layers of :mod:`taut.nn`, it computes something else
    in training: there it subtracts the mean of the batch, and moves `running_mean` towards it in
    the forward pass. In evaluation it subtracts `running_mean`.

    Guarantee: in evaluation a shift, an isometry of l2. In training it mixes the samples of a
        batch: the map of the whole batch has norm 1, but nothing is proven of one sample, and
        :func:`taut.lipschitz_bound` refuses it.
    Cost: a mean in training; a shift in evaluation.

    Where `torch.distributed` is initialised, means are those of the batches of all processes, and
    all of them must run the layer in training, as with `torch.nn.SyncBatchNorm`.

    Args:
        channels: of the input, `(batch, channels)` or `(batch, channels, *spatial)`.
        momentum: how far `running_mean` moves; None for the mean of all batches so far.
        bias: whether a learnable bias is added.
        device, dtype: of the bias and the statistics.

    Raises:
        ValueError: if an argument is wrong, or (forward) the input has other channels.

    Reference:
        Ioffe, Szegedy (2015), *Batch normalization*, algorithm 1, without the division;
        arXiv:1502.03167.

    Example:
        >>> layer = BatchCentering(1)
        >>> layer(torch.tensor([[1.0], [3.0]])).tolist()
        [[-1.0], [1.0]]
        >>> f"{layer.eval()(torch.tensor([[1.0]])).item():.1f}"  # the running mean is 0.2
        '0.8'
    """

    def __init__(
        self,
        channels: int,
        momentum: float | None = 0.1,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, momentum, bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """Subtract the mean, and add the bias."""
        self._check(input)
        mean = self.running_mean
        if self.training:
            mean, _ = self._mean(input, least=1)
            self._move((self.running_mean, mean))
        shift = -mean if self.bias is None else self.bias - mean
        return input + self._along_channels(shift.to(input.dtype), input)


@final
class BatchLipNorm(_BatchStatistics):
    r"""Subtract channel means and divide by the largest standard deviation of all channels.

    :math:`y = (x - \mu) / \sqrt{\max_c \sigma_c^2 + \epsilon} + \beta`: one factor for all
    channels, so that no direction is stretched more than another, as BatchNorm does. In training
    :math:`\mu` and :math:`\sigma` are those of the batch, and the running statistics move in the
    forward pass as those of torch's BatchNorm; in evaluation they are the running ones.

    Guarantee: in evaluation `factor()` times an isometry of l2, which may be above 1:
        :func:`taut.lipschitz_bound` and certificates count it. In training it mixes the samples of
        a batch, and is refused.
    Cost: two passes more than :class:`BatchCentering` in training; a factor in evaluation.

    Where `torch.distributed` is initialised, statistics are those of the batches of all processes.

    Args:
        channels: of the input, `(batch, channels)` or `(batch, channels, *spatial)`.
        numerical_eps: added to the largest variance.
        momentum: how far the running statistics move; None for the mean of all batches so far.
        bias: whether a learnable bias is added.
        device, dtype: of the bias and the statistics.

    Raises:
        ValueError: if an argument is wrong, or (forward) the input has other channels, or, in
            training, a single entry of each.

    Reference:
        `BatchLipNorm` of https://github.com/deel-ai/deel-torchlip@a477697, which averages
        statistics over an epoch, takes the variance of one process, and 1 for variances below its
        eps; here they are those of torch's BatchNorm.

    Example:
        >>> layer = BatchLipNorm(2, numerical_eps=0.0)
        >>> layer(torch.tensor([[1.0, 0.0], [5.0, 2.0]])).tolist()
        [[-1.0, -0.5], [1.0, 0.5]]
    """

    running_var: Tensor

    def __init__(
        self,
        channels: int,
        numerical_eps: float = 1e-5,
        momentum: float | None = 0.1,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, momentum, bias, device, dtype)
        if not (is_number(numerical_eps) and 0 <= numerical_eps < math.inf):
            raise ValueError(
                f"`numerical_eps` must be a finite number >= 0; got {numerical_eps!r}."
            )
        self.numerical_eps = numerical_eps
        self.register_buffer("running_var", torch.empty_like(self.running_mean))
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Reset the statistics to mean 0 and variance 1."""
        super().reset_running_stats()
        nn.init.ones_(self.running_var)

    def factor(self) -> Float[Tensor, ""]:
        """The factor in evaluation mode, which is the Lipschitz constant of the layer."""
        return (self.running_var.max() + self.numerical_eps).rsqrt()

    def forward(self, input: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """Subtract the mean, divide, and add the bias."""
        self._check(input)
        mean, factor = self.running_mean, self.factor()
        if self.training:
            mean, entries = self._mean(input, least=2)
            variance = self._variance(input, mean, entries)
            factor = (variance.max() + self.numerical_eps).rsqrt()
            unbiased = variance * (entries / (entries - 1).clamp_min(1))
            self._move((self.running_mean, mean), (self.running_var, unbiased))
        shift = -mean * factor if self.bias is None else self.bias - mean * factor
        shift = self._along_channels(shift.to(input.dtype), input)
        return input * factor.to(input.dtype) + shift


@op(BatchCentering, BatchLipNorm)
class _BatchStatisticsOp(AbstractOp):
    def follows(self, module: nn.Module) -> bool:
        """In evaluation a factor and a shift, which the functions of the forward say."""
        if module.training:
            raise UnprovenError(
                f"`{type(module).__name__}` in training mixes the samples of a batch; call "
                "model.eval() first."
            )
        return True
