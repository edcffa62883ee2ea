"""Tensors in, tensors out: bases, block convolution, spectra and norm bounds. No nn.Module."""
