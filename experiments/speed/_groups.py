"""The cases of docs/speed.md in groups, and who takes part in each."""

from typing import NamedTuple

from experiments._record import ROOT
from experiments.speed._contenders import CIRCULAR, RELU, TAUT

CASES = {"MNIST Large": "large-mnistb128", "CIFAR-10 Large": "large-cifar10b128"}
STACK = "stack-12x256@16b16"
# By channels, with the most that a training step may take over the fastest plain layer.
EQUAL = {
    "64x64x3@32b64": 1.10,
    "128x128x3@16b64": 1.10,
    "256x256x3@16b64": 1.00,
    "512x512x3@8b64": 0.90,
}
PAPER = ROOT / "experiments" / "speed" / "paper_bcop.py"
_LAYERS = (CIRCULAR, TAUT, "orthogonium")
_NETS = (RELU, CIRCULAR, TAUT, "taut-optim", "orthogonium")
_MODES = (TAUT, "plain-compiled", "taut-compiled")
_ON_GPU = (
    *(RELU, CIRCULAR, TAUT, "taut-batched", "taut-optim", "plain-captured", "taut-captured"),
    "orthogonium",
)


class Group(NamedTuple):
    """Cases, and who takes part beside plain layers and, if `paper`, the paper's algorithm.

    Without names every contender takes part; names that this version of taut lacks are left out.
    """

    cases: tuple[str, ...]
    contenders: tuple[str, ...] = ()
    paper: bool = False


GROUPS = {
    "steps": Group(tuple(CASES.values()), (*_NETS, "deel-torchlip"), paper=True),
    "equal": Group(tuple(EQUAL), _LAYERS),
    "stack": Group((STACK,), _NETS),
    "other": Group(
        (
            *("128x256x3@16b16", "256x128x3@16b16", "256x512x3@8b16", "128x256x4s2@16b16"),
            *("256x512x4s2@16b4", "128x128x3@4b4", "256x256x3@4b4", "512x512x3@4b4"),
            *("512x512b128", "4096x512b128"),
        ),
        _LAYERS,
        paper=True,
    ),
}
# On a GPU: batches that fill it, steps replayed as CUDA graphs, few other layers.
GPU_GROUPS = {
    "steps": Group(("large-cifar10b1024", CASES["CIFAR-10 Large"]), _ON_GPU),
    "equal": Group((*EQUAL, "256x256x3@16b1024"), _LAYERS),
    "stack": Group((STACK, "stack-12x256@16b256"), _ON_GPU),
    "other": Group(
        ("128x256x4s2@16b64", "256x256x3@4b4", "512x512b128", "4096x512b128"), _LAYERS, paper=True
    ),
}
# Not among those that are measured unless they are named.
COMPILED = Group((CASES["CIFAR-10 Large"],), _MODES)
# How times grow over channels, kernel size, batch and depth.
GROWTH = Group(
    (
        *(f"{c}x{c}x3@16b16" for c in (32, 64, 128, 256, 512)),
        *(f"64x64x{k}@16b16" for k in (1, 2, 4, 5, 7)),
        *(f"128x128x3@16b{b}" for b in (1, 4, 64)),
        *("128x256x3@16b16", "256x128x3@16b16", "128x256x4s2@16b16", "256x256x3@4b4", "4096x512"),
        *(f"stack-{n}x64@16b16" for n in (1, 2, 4, 8, 16)),
        *("small-mnist", "large-mnist", "large-cifar10", "stack-12x256@16b16"),
    )
)
NAMED = {"compiled": COMPILED, "growth": GROWTH}

QUICK_GROUPS = {
    "steps": Group(("small-mnistb8", "small-cifar10b8"), _NETS, paper=True),
    "equal": Group(("8x8x3@8b2", "16x16x3@8b2"), _LAYERS),
    "stack": Group(("stack-2x8@8b2",), _NETS),
    "other": Group(("8x16x3@8b2", "32x16b8"), _LAYERS, paper=True),
}
QUICK_NAMED = {
    "compiled": Group(("stack-2x8@8b2",), _MODES),
    "growth": Group(
        (
            *("32x32x3@16b8", "64x64x3@16b8", "128x128x3@16b8", "64x128x4s2@16b8", "1024x256"),
            "small-mnist",
        )
    ),
}
EVERY_GROUP = (*GROUPS, *NAMED)
