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
        self.layer0 = nn.Conv2d(1, 32, (4, 4), stride=(2, 2), padding=(1, 1), padding_mode='circular')
        self.layer2 = nn.Conv2d(32, 64, (3, 3), padding=(1, 1), padding_mode='circular')
        self.layer4 = nn.Conv2d(64, 64, (4, 4), stride=(2, 2), padding=(1, 1), padding_mode='circular')
        self.layer7 = nn.Linear(3136, 120)
        self.layer9 = nn.Linear(120, 120)
        self.layer11 = nn.Linear(120, 10)

    def forward(self, input):
        padtomultiple2d1 = pad_to_multiple(input, 2, 2)
        layer0 = self.layer0(padtomultiple2d1)
        maxmin1 = maxmin(layer0)
        layer2 = self.layer2(maxmin1)
        maxmin2 = maxmin(layer2)
        padtomultiple2d2 = pad_to_multiple(maxmin2, 2, 2)
        layer4 = self.layer4(padtomultiple2d2)
        maxmin3 = maxmin(layer4)
        reshape1 = maxmin3.flatten(1)
        layer7 = self.layer7(reshape1)
        maxmin4 = maxmin(layer7)
        layer9 = self.layer9(maxmin4)
        maxmin5 = maxmin(layer9)
        layer11 = self.layer11(maxmin5)
        return layer11


def load(path=Path(__file__).with_suffix(".safetensors")):
    """The model with its tensors, in eval mode."""
    from safetensors.torch import load_file

    model, state = Model(), load_file(path)
    model.load_state_dict(state)
    return model.requires_grad_(False).eval()
