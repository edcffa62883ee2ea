"""BCOP: block convolution orthogonal parameterization."""

from typing import final

from taut.linalg.block import step_order
from taut.parametrizations._composed import AbstractStepped, Order


@final
class BCOP(AbstractStepped):
    r"""Orthogonal kernel: an orthogonal matrix times orthogonal steps of two taps.

    .. math:: K = U(H * [P_1, I-P_1] * [Q_1, I-Q_1] * [I-P_2, P_2] * \dots) * [R_1, I-R_1] * \dots

    with `*` block convolution, P along the first axis, Q along the second, and so on; every
    projector has half rank: :math:`B B^\top` with the orthonormal basis B of a raw tensor. Every
    second step is reversed: for even channel counts the family stays the same, and kernels of odd
    counts stay centred. There may be any number of axes; without any it is an orthogonal matrix.

    *Strides.* Along an axis of k taps and stride s, the steps behind H act on the input after
    invertible downsampling by s, and U makes them one strided kernel of :math:`s \lfloor k/s
    \rfloor` taps. The other :math:`r = k \bmod s` taps are steps R on the channels of the input,
    which act first. Both are orthogonal, so their product is. A kernel shorter than its stride is a
    single patch.

    *Assigning.* `layer.weight = w` finds the projectors of a kernel of this family from the last
    step to the first, to a few roundings. With steps along several axes, kernels with many more
    channels on one side than on the other (3x3: over 4 times) do not determine their projectors;
    most are refused, as are a few others, such as untrained ones of even size with
    `init="identity"`. `load_state_dict` copies any, and :class:`taut.BCOPFixed` holds any
    orthogonal kernel, untrained.

    *Groups* have one kernel each; the singular values of the layer are those of all of them.

    Guarantee: with circular padding all singular values of the operator are 1 (semi-orthogonal
        where the sizes of input and output differ), for every finite raw tensor; with zero padding
        at most 1. float32: within 1e-5 of 1, none above 1 + 3e-6.
    Cost: for a 3x3 kernel 13 products of `(min, c)` with `(c, c)`, c = max of the channel counts,
        and the bases of four `(c, c / 2)` raw tensors and of one `(c, min)`. Layers with many
        channels and positions form no kernel: they apply the steps to the input, with
        `4 c^2 + c min` multiplications per position instead of `9 c min`.

    Args:
        in_channels: channels (or features) of the input.
        out_channels: channels (or features) of the output.
        kernel_size: taps per spatial axis; `()` for a matrix.
        init: `"identity"` takes the identity for H, and one projector for all steps of the same
            kind: pairs of steps cancel, so that a layer of stride 1 with as many outputs as inputs
            and odd kernel sizes starts as the identity. The projectors separate in training; deep
            nets train better. `"uniform"` draws H and the projectors uniformly.
        options: stride, groups, device and dtype, as :class:`AbstractParametrization` has them.

    Raises:
        ValueError: as the base class; if no orthogonal convolution of these sizes exists, or only
            shifts (one channel in and out, or groups of one, and stride 1).

    Reference:
        Li et al. (2019), *Preventing Gradient Attenuation in Lipschitz Constrained Convolutional
        Networks*, section 4 and appendix B; arXiv:1911.00937. They orthonormalise with 20 Bjorck
        steps; P depends only on the span, so an exact basis gives the same P. Strides that do not
        divide the kernel: Boissin et al. (2025), *An Adaptive Orthogonal Convolution Scheme for
        Efficient and Flexible CNN Architectures*, arXiv:2501.07930; they take one patch, so that
        all other taps are steps on the channels of the input.

    Example:
        >>> kernel = BCOP(8, 4, (3, 3)).weight()
        >>> symbol = torch.fft.fft2(kernel, s=(5, 5)).permute(2, 3, 0, 1)
        >>> s = torch.linalg.svdvals(symbol)
        >>> torch.allclose(s, torch.ones_like(s), atol=1e-5)
        True
    """

    instead_of_assigning = (
        "kernels with over 4 times as many channels on one side as on the other may not determine "
        "them; load_state_dict copies any layer, and taut.BCOPFixed holds any orthogonal kernel"
    )
    reference = "Li et al. 2019, arXiv:1911.00937, section 4"

    def order(self, size: tuple[int, ...]) -> Order:
        """The axes take turns."""
        return step_order(size)
