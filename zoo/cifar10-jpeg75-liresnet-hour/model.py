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
    """Takes (batch, 3, 32, 32)."""

    def __init__(self):
        super().__init__()
        self.stem_0 = nn.Conv2d(3, 80, (5, 5), stride=(2, 2))
        self.backbone_0 = nn.Conv2d(80, 80, (3, 3), padding=(1, 1), bias=False)
        self.register_buffer('add1_constant', torch.zeros((80, 1, 1), dtype=torch.float32))
        self.backbone_3 = nn.Conv2d(80, 80, (3, 3), padding=(1, 1), bias=False)
        self.register_buffer('add2_constant', torch.zeros((80, 1, 1), dtype=torch.float32))
        self.backbone_6 = nn.Conv2d(80, 80, (3, 3), padding=(1, 1), bias=False)
        self.register_buffer('add3_constant', torch.zeros((80, 1, 1), dtype=torch.float32))
        self.backbone_9 = nn.Conv2d(80, 80, (3, 3), padding=(1, 1), bias=False)
        self.register_buffer('add4_constant', torch.zeros((80, 1, 1), dtype=torch.float32))
        self.neck_0 = nn.Conv2d(80, 80, (4, 4), stride=(4, 4), bias=False)
        self.neck_2 = nn.Linear(1280, 128)
        self.dense_0 = nn.Linear(128, 128)
        self.head = nn.Linear(128, 10)

    def forward(self, input):
        padtomultiple2d1 = pad_to_multiple(input, 2, 2)
        stem_0 = self.stem_0(F.pad(padtomultiple2d1, (1, 2, 1, 2)))
        maxmin1 = maxmin(stem_0)
        backbone_0 = self.backbone_0(maxmin1)
        add1 = (backbone_0 + self.add1_constant)
        maxmin2 = maxmin(add1)
        backbone_3 = self.backbone_3(maxmin2)
        add2 = (backbone_3 + self.add2_constant)
        maxmin3 = maxmin(add2)
        backbone_6 = self.backbone_6(maxmin3)
        add3 = (backbone_6 + self.add3_constant)
        maxmin4 = maxmin(add3)
        backbone_9 = self.backbone_9(maxmin4)
        add4 = (backbone_9 + self.add4_constant)
        maxmin5 = maxmin(add4)
        padtomultiple2d2 = pad_to_multiple(maxmin5, 4, 4)
        neck_0 = self.neck_0(padtomultiple2d2)
        reshape1 = neck_0.flatten(1)
        neck_2 = self.neck_2(reshape1)
        maxmin6 = maxmin(neck_2)
        dense_0 = self.dense_0(maxmin6)
        maxmin7 = maxmin(dense_0)
        head = self.head(maxmin7)
        return head


def load(path=Path(__file__).with_suffix(".safetensors")):
    """The model with its tensors, in eval mode."""
    from safetensors.torch import load_file

    model, state = Model(), load_file(path)
    state["add1_constant"] = state["backbone_1.constant"]
    state["add2_constant"] = state["backbone_4.constant"]
    state["add3_constant"] = state["backbone_7.constant"]
    state["add4_constant"] = state["backbone_10.constant"]
    del state["backbone_1.constant"]
    del state["backbone_4.constant"]
    del state["backbone_7.constant"]
    del state["backbone_10.constant"]
    model.load_state_dict(state)
    return model.requires_grad_(False).eval()
