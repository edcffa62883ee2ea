"""Inverse problems: denoisers with a proof, in iterations that provably converge."""

from taut.inverse._admm import admm
from taut.inverse._averagedness import averagedness, composed_averagedness
from taut.inverse._data_term import AbstractDataTerm, LeastSquares
from taut.inverse._denoiser import Denoiser, FixedNoise, conv_net
from taut.inverse._physics import Blur, Downsampling, Inpainting
from taut.inverse._proximal_gradient import proximal_gradient
from taut.inverse._restoration import Restoration

__all__ = [
    "AbstractDataTerm",
    "Blur",
    "Denoiser",
    "Downsampling",
    "FixedNoise",
    "Inpainting",
    "LeastSquares",
    "Restoration",
    "admm",
    "averagedness",
    "composed_averagedness",
    "conv_net",
    "proximal_gradient",
]
