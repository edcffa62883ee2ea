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
        self.layer1 = nn.Conv1d(1, 32, (8,), stride=(4,), padding=(2,), padding_mode='circular')
        self.layer3 = nn.Conv1d(32, 64, (8,), stride=(4,), padding=(2,), padding_mode='circular')
        self.layer5 = nn.Conv1d(64, 64, (7,), padding=(3,), padding_mode='circular')
        self.layer7 = nn.Conv1d(64, 64, (8,), stride=(4,), padding=(2,), padding_mode='circular')
        self.layer10 = nn.Linear(832, 64)
        self.layer12 = nn.Linear(64, 10)

    def forward(self, input):
        reshape1 = input.reshape(input.shape[0], 1, 784)
        padtomultiple1d1 = pad_to_multiple(reshape1, 4)
        layer1 = self.layer1(padtomultiple1d1)
        maxmin1 = maxmin(layer1)
        padtomultiple1d2 = pad_to_multiple(maxmin1, 4)
        layer3 = self.layer3(padtomultiple1d2)
        maxmin2 = maxmin(layer3)
        layer5 = self.layer5(maxmin2)
        maxmin3 = maxmin(layer5)
        padtomultiple1d3 = pad_to_multiple(maxmin3, 4)
        layer7 = self.layer7(padtomultiple1d3)
        maxmin4 = maxmin(layer7)
        reshape2 = maxmin4.flatten(1)
        layer10 = self.layer10(reshape2)
        maxmin5 = maxmin(layer10)
        layer12 = self.layer12(maxmin5)
        return layer12


def load(path=Path(__file__).with_suffix(".safetensors")):
    """The model with its tensors, in eval mode."""
    from safetensors.torch import load_file

    model, state = Model(), load_file(path)
    model.load_state_dict(state)
    return model.requires_grad_(False).eval()
