"""Other libraries of orthogonal layers, imported where used, with their own default settings."""

from torch import nn


def orthogonium_conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    """The adaptive orthogonal convolution of orthogonium.

    Raises:
        ImportError: if the library is not installed, with the line that installs it.

    Reference:
        Boissin et al. (2025), arXiv:2501.07930; https://github.com/deel-ai/orthogonium.
    """
    try:
        from orthogonium.layers import AdaptiveOrthoConv2d
    except ImportError as error:
        raise _not_installed("orthogonium") from error
    padding = symmetric_padding(kernel, stride)
    return AdaptiveOrthoConv2d(inputs, outputs, kernel, stride, padding)  # pyright: ignore[reportArgumentType]


def orthogonium_linear(inputs: int, outputs: int) -> nn.Module:
    """The orthogonal dense layer of orthogonium."""
    try:
        from orthogonium.layers import OrthoLinear
    except ImportError as error:
        raise _not_installed("orthogonium") from error
    return OrthoLinear(inputs, outputs)


def torchlip_conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    """The 1-Lipschitz convolution of deel-torchlip: a reshaped kernel, not an orthogonal operator.

    Raises:
        ImportError: if the library is not installed, with the line that installs it.

    Reference:
        Serrurier et al. (2021), arXiv:2006.06520; https://github.com/deel-ai/deel-torchlip.
    """
    try:
        from deel.torchlip import SpectralConv2d
    except ImportError as error:
        raise _not_installed("deel-torchlip") from error
    padding = symmetric_padding(kernel, stride)
    return SpectralConv2d(inputs, outputs, kernel, stride, padding, padding_mode="circular")  # pyright: ignore[reportArgumentType]


def torchlip_linear(inputs: int, outputs: int) -> nn.Module:
    """The orthogonal dense layer of deel-torchlip."""
    try:
        from deel.torchlip import SpectralLinear
    except ImportError as error:
        raise _not_installed("deel-torchlip") from error
    return SpectralLinear(inputs, outputs)


def symmetric_padding(kernel: int, stride: int) -> int | str:
    """The `padding` of a torch layer whose output has `size / stride` rows and columns.

    Raises:
        ValueError: if torch has none: it pads both sides alike where there is a stride.

    Example:
        >>> symmetric_padding(4, 2), symmetric_padding(2, 1)
        (1, 'same')
    """
    if (kernel - stride) % 2 == 0 and kernel >= stride:
        return (kernel - stride) // 2
    if stride == 1:
        return "same"
    raise ValueError(f"no symmetric padding fits kernel size {kernel} with stride {stride}")


def _not_installed(name: str) -> ImportError:
    return ImportError(f"not installed: pip install {name}")
