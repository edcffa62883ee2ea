"""A model in plain torch, written by taut; its tensors are in the file beside it."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F


def maxmin(x):
    """The larger of each pair of channels, then the smaller; the halves are paired."""
    half = x.shape[1] // 2
    a, b = x[:, :half], x[:, half : 2 * half]
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b), x[:, 2 * half :]], 1)


def pad_to_multiple(x, *multiple):
    """Zeros behind each axis until the size is a multiple."""
    pairs = zip(x.shape[2:], multiple)
    return F.pad(x, [n for size, m in list(pairs)[::-1] for n in (0, -size % m)])


class Model(nn.Module):
    """Takes (batch, 3, 32, 32)."""

    def __init__(self):
        super().__init__()
        self.layer0 = nn.Conv2d(3, 32, (3, 3), padding=(1, 1), padding_mode='circular')
        self.layer2 = nn.Conv2d(32, 32, (4, 4), stride=(2, 2), padding=(1, 1), padding_mode='circular')
        self.layer4 = nn.Conv2d(32, 64, (3, 3), padding=(1, 1), padding_mode='circular')
        self.layer6 = nn.Conv2d(64, 64, (4, 4), stride=(2, 2), padding=(1, 1), padding_mode='circular')
        self.layer8 = nn.Conv2d(64, 96, (3, 3), padding=(1, 1), padding_mode='circular')
        self.layer10 = nn.Conv2d(96, 96, (4, 4), stride=(2, 2), padding=(1, 1), padding_mode='circular')
        self.layer13 = nn.Linear(1536, 112)
        self.layer15 = nn.Linear(112, 10)

    def forward(self, input):
        layer0 = self.layer0(input)
        maxmin1 = maxmin(layer0)
        padtomultiple2d1 = pad_to_multiple(maxmin1, 2, 2)
        layer2 = self.layer2(padtomultiple2d1)
        maxmin2 = maxmin(layer2)
        layer4 = self.layer4(maxmin2)
        maxmin3 = maxmin(layer4)
        padtomultiple2d2 = pad_to_multiple(maxmin3, 2, 2)
        layer6 = self.layer6(padtomultiple2d2)
        maxmin4 = maxmin(layer6)
        layer8 = self.layer8(maxmin4)
        maxmin5 = maxmin(layer8)
        padtomultiple2d3 = pad_to_multiple(maxmin5, 2, 2)
        layer10 = self.layer10(padtomultiple2d3)
        maxmin6 = maxmin(layer10)
        reshape1 = maxmin6.flatten(1)
        layer13 = self.layer13(reshape1)
        maxmin7 = maxmin(layer13)
        layer15 = self.layer15(maxmin7)
        return layer15


def load(path=Path(__file__).with_suffix(".safetensors")):
    """The model with its tensors, in eval mode."""
    from safetensors.torch import load_file

    model, state = Model(), load_file(path)
    model.load_state_dict(state)
    return model.requires_grad_(False).eval()
