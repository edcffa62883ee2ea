"""Honest certificates of many models, and ways to forge them."""

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import taut
from taut.anomaly import Neighbours
from taut.certification import certify, prove
from taut.certification._certificate import describe, weights_sha256
from taut.files import load_tensors, save_tensors
from taut.models import Small
from taut.program import canonical


def plain():
    """No layer is orthogonal: zero padding, stride, a plain net without pools."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="zeros", bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 12),
        taut.nn.MaxMin(),
        nn.Linear(12, 5),
    )


def orthogonal():
    torch.manual_seed(0)
    return Small().build((2, 8, 8), 5).eval()


class Branches(nn.Module):
    """Most operations at once, with several inputs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool, self.top = nn.AvgPool2d(2), nn.MaxPool2d(2)
        self.fc = nn.Linear(128, 5)
        self.register_buffer("scale", torch.rand(1, 4, 1, 1))
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        h = F.leaky_relu(self.norm(self.conv(x)), 0.2)
        h = h + 0.5 * (h * self.scale)
        h = torch.cat([self.pool(h), torch.clamp(self.top(h), -0.3, 0.7)], 1)
        return self.fc(torch.flatten(h, 1))


class Function(nn.Module):
    """A function of (4, 6) samples, and a matrix."""

    def __init__(self, function, width):
        super().__init__()
        self.function, self.head = function, nn.Linear(width, 3)
        self.register_buffer("c", torch.rand(1, 4, 6))
        self.register_buffer("w", torch.randn(4, 2, 3))
        self.register_buffer("places", torch.tensor([3, 1, 0, 1]))

    def forward(self, x):
        return self.head(self.function(x, self).flatten(1))


FUNCTIONS = {
    "add": lambda x, m: x + m.c,
    "add a factor of a tensor": lambda x, m: torch.sub(x, m.c, alpha=3),
    "subtract from a number": lambda x, m: 0.3 - 2 * x,
    "subtract from a tensor": lambda x, m: torch.sub(m.c, x, alpha=2),
    "residual": lambda x, m: x - 0.3 * torch.relu(x),
    "broadcast": lambda x, m: x + x[:, :1],
    "scale": lambda x, m: x * m.c,
    "divide": lambda x, m: x / (1 + m.c),
    "divide by a number": lambda x, m: x / 3,
    "clamp": lambda x, m: torch.clamp(x, min=m.c),
    "hardtanh": lambda x, m: F.hardtanh(x, -0.1, 0.2),
    "mean": lambda x, m: x.mean(-1),
    "sum": lambda x, m: x.sum((1, 2), keepdim=True),
    "slice": lambda x, m: x[:, 1:, ::2],
    "take": lambda x, m: x[:, m.places],
    "repeat": lambda x, m: x.repeat(1, 2, 3),
    "pad": lambda x, m: F.pad(x, (1, 2), value=0.5),
    "pad round": lambda x, m: F.pad(x, (1, 5), mode="circular"),
    "flip": lambda x, m: x.flip(1, 2),
    "roll": lambda x, m: x.roll(-1, 2),
    "permute": lambda x, m: x.transpose(1, 2),
    "sort": lambda x, m: x.sort(1).values,
    "sort down": lambda x, m: x.sort(2, descending=True).values,
    "abs": lambda x, m: -x.abs(),
    "maximum": lambda x, m: torch.maximum(x, m.c),
    "minimum": lambda x, m: torch.minimum(x, x.flip(1)),
    "concat": lambda x, m: torch.cat([x, m.c.expand(x.shape[0], 4, 6), -x], 2),
    "rows": lambda x, m: F.linear(x, m.c[0, :2], m.c[0, 0, :2]),
    "strided conv": lambda x, m: F.conv1d(x, m.w, None, 2, 2, 2, 2),
    "max pool": lambda x, m: F.max_pool1d(x, 3, 2, 1, ceil_mode=True),
    "average pool": lambda x, m: F.avg_pool1d(x, 3, 2, 1),
    "unshuffle": lambda x, m: F.pixel_unshuffle(
        x.unflatten(2, (2, 3)).transpose(1, 3)[..., None, :].flatten(2, 3), 1
    ),
    "shuffle": lambda x, m: F.pixel_shuffle(x.unflatten(2, (3, 2)), 2),
    "blocks": lambda x, m: F.pixel_unshuffle(x.unsqueeze(1), 2),
    "halves": lambda x, m: torch.cat(
        [torch.maximum(*x.chunk(2, 1)), torch.minimum(*x.chunk(2, 1))], 1
    ),
}


def function(name):
    torch.manual_seed(0)
    model = Function(FUNCTIONS[name], 1)
    width = FUNCTIONS[name](torch.rand(2, 4, 6), model).flatten(1).shape[1]
    return Function(FUNCTIONS[name], width)


def sequential(*layers):
    """A maker of seeded layers, which are given as makers."""

    def make():
        torch.manual_seed(0)
        return nn.Sequential(*(layer() for layer in layers))

    return make


class Folded(nn.Module):
    """A convolution between norms, and a sum behind it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.fc = nn.Linear(18, 3)
        nn.init.uniform_(self.norm.running_var, 0.1, 1.0)
        nn.init.uniform_(self.norm.weight, 1.0, 3.0)

    def forward(self, x):
        return self.fc((self.norm(self.conv(x)) + x).relu().flatten(1))


class Tokens(nn.Module):
    """A norm over tokens behind a matrix over features."""

    def __init__(self):
        super().__init__()
        self.mix, self.norm, self.fc = nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(16, 3)
        self.register_buffer("places", torch.rand(4, 4) + 0.5)

    def forward(self, x):
        return self.fc((self.norm(self.mix(x)) * self.places).flatten(1))


class ScaledHead(nn.Module):
    """A last matrix, and behind it all factors of outputs."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(3)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        self.register_buffer("factors", torch.tensor([2.0, -0.5, 1.5]))

    def forward(self, x):
        z = -self.norm(self.fc(x) * self.factors / 0.3).reshape(-1, 3, 1)
        return z.flatten(1)


class Summed(nn.Module):
    """Two logits, each a sum of two."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x):
        return self.one(x) + self.two(x.relu())


MODELS = {
    "scaled head": (ScaledHead, (6,)),
    "summed": (Summed, (6,)),
    "convolved head": (
        sequential(
            lambda: nn.Conv2d(2, 3, 1), nn.ReLU, lambda: nn.Conv2d(3, 4, (3, 2), 2, (1, 0)),
            nn.Flatten,
        ),
        (2, 2, 2),
    ),
    "wrapped head": (
        sequential(
            lambda: nn.Conv2d(2, 3, 3, 2, 1, padding_mode="circular"), nn.Flatten,
        ),
        (2, 2, 2),
    ),
    "folded": (Folded, (2, 3, 3)),
    "tokens": (Tokens, (4, 6)),
    "upsampled": (
        sequential(lambda: nn.Upsample(scale_factor=2), nn.Flatten, lambda: nn.Linear(32, 3)),
        (2, 2, 2),
    ),
    "plain": (plain, (2, 8, 8)),
    "orthogonal": (orthogonal, (2, 8, 8)),
    "branches": (Branches, (2, 8, 8)),
    "circular": (
        sequential(
            lambda: nn.Conv2d(2, 3, 3, 2, 1, padding_mode="circular", bias=False), nn.ReLU,
            lambda: nn.Conv2d(3, 4, 3, 1, 2, dilation=2, padding_mode="circular"),
            lambda: taut.nn.GroupSort(3), nn.Flatten, lambda: nn.Linear(64, 4),
        ),
        (2, 8, 8),
    ),
    "odd circular": (
        sequential(
            lambda: nn.Conv2d(2, 4, 3, 2, 1, dilation=2, padding_mode="circular", groups=2),
            nn.Flatten, lambda: nn.Linear(36, 3),
        ),
        (2, 7, 7),
    ),
    "unequal pads": (
        sequential(
            lambda: taut.nn.Conv2d(1, 8, 4, stride=2), taut.nn.MaxMin, nn.Flatten,
            lambda: nn.Linear(128, 4),
        ),
        (1, 7, 7),
    ),
    "frozen": (
        lambda: taut.freeze(MODELS["unequal pads"][0]()), (1, 7, 7),
    ),
    "signals": (
        sequential(
            lambda: nn.Conv1d(3, 4, 5), taut.nn.MaxMin,
            lambda: nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), nn.ReLU,
            lambda: nn.Conv1d(6, 4, 4, stride=3, padding=2), nn.Flatten, lambda: nn.Linear(20, 3),
        ),
        (3, 16),
    ),
    "volumes": (
        sequential(
            lambda: nn.Conv3d(1, 2, 2, padding=(1, 0, 0)), nn.ReLU, nn.Flatten,
            lambda: nn.Linear(36, 3),
        ),
        (1, 2, 3, 4),
    ),
    "transposed": (
        sequential(
            lambda: nn.ConvTranspose2d(2, 4, 3, 2, 1, output_padding=1, groups=2), nn.ReLU,
            lambda: nn.ConvTranspose2d(4, 2, (2, 3), dilation=(1, 2), bias=False),
            nn.Flatten, lambda: nn.Linear(216, 3),
        ),
        (2, 4, 4),
    ),
    "wrapped": (
        sequential(
            lambda: taut.nn.ConvTranspose2d(2, 3, 4, stride=2), nn.ReLU,
            lambda: taut.nn.ConvTranspose2d(3, 2, (2, 3)), nn.Flatten, lambda: nn.Linear(128, 3),
        ),
        (2, 4, 4),
    ),
    "residuals": (
        sequential(
            lambda: taut.nn.PotentialResidual2d(4, parametrization=taut.SLL), taut.nn.MaxMin,
            lambda: taut.nn.PotentialResidual2d(
                4, 8, 4, 2, groups=2, padding_mode="zeros", activation=nn.LeakyReLU(0.25)
            ),
            lambda: taut.nn.PotentialResidual2d(4, kernel_size=5, activation=nn.Hardtanh()),
            lambda: taut.nn.PotentialResidual2d(
                4, 3, 2, bias=False, parametrization=taut.CPL, activation=nn.Identity()
            ),
            nn.Flatten, lambda: nn.Linear(48, 3),
        ),
        (4, 3, 4),
    ),
    "sandwiches": (
        sequential(
            lambda: taut.nn.Sandwich2d(2, 6, hidden_channels=5, stride=2), taut.nn.MaxMin,
            lambda: taut.nn.Sandwich2d(6, 4, 2, (2, 1), padding_mode="zeros", up=True),
            lambda: taut.nn.Sandwich2d(4, 4, groups=2, dilation=2, parametrization=taut.AOL),
            nn.Flatten, lambda: nn.Linear(64, 3),
        ),
        (2, 4, 7),
    ),
    "frequencies": (
        sequential(
            lambda: taut.nn.Conv2d(2, 4, 3, groups=2, parametrization=taut.LOT), taut.nn.MaxMin,
            lambda: taut.nn.Conv2d(4, 6, 4, 2, padding_mode="zeros", parametrization=taut.BRO),
            taut.nn.MaxMin, nn.Flatten, lambda: nn.Linear(54, 3),
        ),
        (2, 5, 6),
    ),
    "copies": (
        sequential(
            lambda: nn.Conv1d(2, 3, 3, padding=2, padding_mode="reflect"), lambda: nn.PReLU(3),
            lambda: nn.Conv1d(3, 2, 3, 2, padding=1, padding_mode="replicate"), nn.PReLU,
            lambda: nn.AdaptiveAvgPool1d(3), nn.Flatten, lambda: nn.Linear(6, 3),
        ),
        (2, 7),
    ),
    "activations": (
        sequential(
            lambda: nn.Conv2d(2, 5, 2), lambda: taut.nn.HouseHolder(5, 2, 2),
            lambda: taut.nn.NActivation(5), lambda: taut.nn.LinearSpline(5, 5), taut.nn.Abs,
            taut.nn.FullSort, nn.Flatten, lambda: nn.Linear(20, 3),
        ),
        (2, 3, 3),
    ),
    "norms of windows": (
        sequential(
            lambda: taut.nn.L2NormPool2d(3, 2, 1), lambda: taut.nn.AdaptiveL2NormPool2d((2, 1)),
            nn.Flatten, lambda: nn.Linear(4, 3),
        ),
        (2, 5, 5),
    ),
    "neighbours": (
        sequential(
            lambda: Neighbours(torch.randn(6, 2, 3), torch.rand(6), count=2),
            lambda: nn.Linear(1, 3),
        ),
        (2, 3),
    ),
    "split": (
        sequential(
            lambda: taut.nn.SplitResidual(nn.PReLU(2, 2.0)), nn.Flatten, lambda: nn.Linear(12, 3),
        ),
        (4, 3),
    ),
    "centred": (
        sequential(
            lambda: taut.nn.LayerCentering(-1), nn.Flatten, lambda: nn.Linear(12, 3),
        ),
        (3, 4),
    ),
    "matrices": (
        sequential(
            lambda: nn.Linear(6, 5), nn.ReLU, lambda: nn.Linear(5, 5), nn.ReLU,
            lambda: nn.Linear(5, 5),
        ),
        (6,),
    ),
    "no matrix": (sequential(lambda: nn.Linear(6, 3), nn.ReLU), (6,)),
    "no weights": (sequential(nn.ReLU), (3,)),
    "any size": (
        sequential(
            lambda: taut.nn.PadToMultiple1d(4),
            taut.nn.MaxMin,
            nn.Flatten,
            lambda: nn.Linear(24, 3),
        ),
        (3, 6),
    ),
    "shifts": (
        sequential(
            lambda: taut.nn.PositionalEncoding((2, 3)), lambda: taut.nn.ShiftMix2d(4, 5),
            taut.nn.MaxMin, lambda: taut.nn.ShiftMix2d(5, 4, padding_mode="zeros"), nn.Flatten,
            lambda: nn.Linear(24, 3),
        ),
        (4, 2, 3),
    ),
    "isometric pads": (
        sequential(
            lambda: taut.nn.IsometricPad2d((1, 2, 0, 1)), lambda: nn.Conv2d(2, 3, 3), nn.ReLU,
            lambda: taut.nn.IsometricPad2d(2, "replicate"), nn.Flatten, lambda: nn.Linear(189, 3),
        ),
        (2, 4, 4),
    ),
    "skew exponentials": (
        sequential(
            lambda: taut.nn.SOC2d(2, 6, 3, stride=2, degree=4), taut.nn.MaxMin,
            lambda: taut.nn.SOC2d(6, 4, 3, groups=2, dilation=(1, 2), padding_mode="circular"),
            nn.Flatten, lambda: nn.Linear(36, 3),
        ),
        (2, 5, 6),
    ),
    "skew exponential of signals": (
        sequential(
            lambda: taut.nn.SOC1d(2, 2, 5, degree=3, bias=False), nn.Flatten,
            lambda: nn.Linear(14, 3),
        ),
        (2, 7),
    ),
    "pools": (
        sequential(
            lambda: nn.MaxPool2d(2, ceil_mode=True), lambda: nn.AvgPool2d(3, 1, 1),
            lambda: nn.MaxPool2d(3, 2, 1), lambda: nn.AdaptiveAvgPool2d(1), nn.Flatten,
            lambda: nn.Linear(2, 3),
        ),
        (2, 7, 7),
    ),
} | {name: (lambda name=name: function(name), (4, 6)) for name in FUNCTIONS}  # fmt: skip


def certified(name, folder, arithmetic="float64", images=4):
    """A certificate with images: the files of certificate, weights and points; images, model."""
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    x = torch.rand(images, *shape, generator=torch.Generator().manual_seed(1)) - 0.3
    with torch.no_grad():
        labels = model(x).argmax(1)
    result = certify(model, x, labels, eps=("1/1000", 0.05), arithmetic=arithmetic)
    path, weights = result.save(Path(folder, "certificate.json"))
    return path, weights, points_file(folder, x), x, model


def points_file(folder, x, **arrays):
    """The images as users save them."""
    path = Path(folder, "points.npz")
    np.savez(path, **(arrays or {"images": x.numpy() if isinstance(x, torch.Tensor) else x}))
    return path


def rewritten(path, change, **paths):
    """A certificate after a change, without any care for its hashes."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(canonical(content))
    return path


def rehash(content):
    """As a forger would: the hash of the graph fits again."""
    content["graph_sha256"] = hashlib.sha256(canonical(content["graph"]).encode()).hexdigest()


def rehashed(change):
    """A change of the graph, after which its hash fits."""

    def both(content):
        change(content)
        rehash(content)

    return both


def forge(folder, content, tensors):
    """Both files with a content and tensors of one's own, every hash made to fit."""
    tensors = dict(sorted(tensors.items()))
    content = copy.deepcopy(content)
    rehash(content)
    content.update(weights=describe(tensors), weights_sha256=weights_sha256(tensors))
    path, weights = Path(folder, "forged.json"), Path(folder, "forged.safetensors")
    path.write_text(canonical(content))
    save_tensors(weights, tensors, {"graph_sha256": content["graph_sha256"]})
    return path, weights


def opened(path, weights):
    """Content and tensors of a certificate, to be changed."""
    return json.loads(path.read_text()), dict(load_tensors(weights)[0])


def honest(model, shape, folder, arithmetic="float64"):
    """A certificate without images."""
    return prove(model, shape, arithmetic=arithmetic).save(Path(folder, "certificate.json"))
