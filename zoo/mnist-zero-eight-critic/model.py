"""A model in plain torch, written by taut; its tensors are in the file beside it."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F


def pad_to_multiple(x, *multiple):
    """Zeros behind each axis until the size is a multiple."""
    pairs = zip(x.shape[2:], multiple)
    return F.pad(x, [n for size, m in list(pairs)[::-1] for n in (0, -size % m)])


def maxmin(x):
    """The larger of each pair of channels, then the smaller; the halves are paired."""
    half = x.shape[1] // 2
    a, b = x[:, :half], x[:, half : 2 * half]
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b), x[:, 2 * half :]], 1)


class Model(nn.Module):
    """Takes (batch, 1, 28, 28)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, (4, 4), stride=(2, 2), padding=(1, 1), padding_mode='circular')
        self.conv2 = nn.Conv2d(16, 32, (4, 4), stride=(2, 2), padding=(1, 1), padding_mode='circular')
        self.dense1 = nn.Linear(1568, 100)
        self.dense2 = nn.Linear(100, 2)

    def forward(self, input):
        padtomultiple2d1 = pad_to_multiple(input, 2, 2)
        conv1 = self.conv1(padtomultiple2d1)
        maxmin1 = maxmin(conv1)
        padtomultiple2d2 = pad_to_multiple(maxmin1, 2, 2)
        conv2 = self.conv2(padtomultiple2d2)
        maxmin2 = maxmin(conv2)
        reshape1 = maxmin2.flatten(1)
        dense1 = self.dense1(reshape1)
        maxmin3 = maxmin(dense1)
        dense2 = self.dense2(maxmin3)
        return dense2


def load(path=Path(__file__).with_suffix(".safetensors")):
    """The model with its tensors, in eval mode."""
    from safetensors.torch import load_file

    model, state = Model(), load_file(path)
    model.load_state_dict(state)
    return model.requires_grad_(False).eval()
