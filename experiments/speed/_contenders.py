"""Who is measured: named functions that build a layer, each with its library's defaults.

"plain" is what a user would otherwise take: torch's layers with zero or circular padding, whichever
is faster, with MaxMin between them in a net.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import nn

import taut
from experiments.speed._cases import Case, NetCase
from taut.nn import Conv2d, Linear, MaxMin
from taut.parametrizations import methods

PLAIN = "plain"
CIRCULAR = "plain-circular"
RELU = "plain-relu"
TAUT = "taut"

Optimiser = Callable[[nn.Module], torch.optim.Optimizer]
# By torch.compile, as a CUDA graph, inside `taut.batched`; as it comes without a word.
Mode = Literal["", "compiled", "captured", "batched"]


def adam(module: nn.Module, *, capturable: bool = False) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), fused=True, capturable=capturable)


@final
@dataclass(frozen=True)
class Contender:
    """A way to build layers, and to train what they make."""

    name: str  # as tables show it
    # `(in_channels, out_channels, kernel_size, stride)` to a layer that answers `size / stride`
    # rows and columns.
    conv: Callable[..., nn.Module]
    linear: Callable[..., nn.Module]  # `(in_features, out_features)` to a layer
    # Builds a net as the contender would; None maps taut's net to its twin layer by layer.
    net: Callable[[NetCase], nn.Sequential] | None = None
    padding: str = ""  # its name, where contenders of one row differ in it
    rivals: tuple[str, ...] = ()  # other contenders: the fastest of all makes the row
    activation: Callable[[], nn.Module] | None = None  # of a twin, in place of MaxMin
    optimiser: Optimiser = adam  # of a net
    nets_only: bool = False
    # How it runs, with channels last alone, since compilers take minutes.
    mode: Mode = ""

    def takes(self, case: Case, device: torch.device) -> bool:
        """Whether it takes part in a case."""
        if self.mode == "captured" and device.type != "cuda":
            return False
        if isinstance(case, NetCase):
            return True
        # Padding is nothing to a dense layer: there "plain" says it all.
        return not self.nets_only and (case.kernel > 0 or self.name != CIRCULAR)

    @property
    def is_usual(self) -> bool:
        """Whether its layers alone make the difference to others."""
        return self.optimiser is adam and not self.mode

    def build(self, case: Case) -> nn.Module:
        """The layer or net of a case; raises what the library raises where it has none."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what peers warn of is theirs
            if isinstance(case, NetCase):
                return twin(case.build(), self) if self.net is None else self.net(case)
            if case.kernel:
                return self.conv(case.inputs, case.outputs, case.kernel, case.stride)
            return self.linear(case.inputs, case.outputs)


def twin(net: nn.Sequential, contender: Contender) -> nn.Sequential:
    """The same net with a contender's layers in place of taut's; other modules are kept."""

    def replaced(layer: nn.Module) -> nn.Module:
        if isinstance(layer, Conv2d):
            sizes = (layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0])
            return contender.conv(*sizes)
        if isinstance(layer, Linear):
            return contender.linear(layer.in_features, layer.out_features)
        if isinstance(layer, MaxMin) and contender.activation is not None:
            return contender.activation()
        return layer

    return nn.Sequential(*map(replaced, net))


def contenders(files: Sequence[Path] = ()) -> dict[str, Contender]:
    """All by name: plain torch, taut as it comes, its methods one by one, peers, those of files.

    >>> list(contenders())[:4]
    ['plain', 'plain-relu', 'plain-circular', 'taut']
    """
    zeros, circular = _plain_conv("zeros"), _plain_conv("circular")
    plain = Contender(PLAIN, zeros, nn.Linear, padding="zeros", rivals=(CIRCULAR,))
    ours = Contender(TAUT, Conv2d, Linear, NetCase.build)
    every = [
        plain,
        replace(plain, name=RELU, rivals=(), activation=nn.ReLU, nets_only=True),
        Contender(CIRCULAR, circular, nn.Linear, padding="circular"),
        ours,
        *_optimisers(ours),
        _otherwise(ours, "batched"),
        *(_otherwise(base, mode) for mode in ("compiled", "captured") for base in (plain, ours)),
        *map(_method, methods()),
        # Boissin et al. (2025), arXiv:2501.07930; https://github.com/deel-ai/orthogonium
        _peer("orthogonium", "orthogonium.layers", "AdaptiveOrthoConv2d", "OrthoLinear"),
        # Serrurier et al. (2021), arXiv:2006.06520; https://github.com/deel-ai/deel-torchlip: a
        # reshaped kernel, not an orthogonal operator.
        _peer(
            "deel-torchlip",
            "deel.torchlip",
            "SpectralConv2d",
            "SpectralLinear",
            padding_mode="circular",
        ),
        *map(load_contender, files),
    ]
    return {contender.name: contender for contender in every}


def select(names: Sequence[str], files: Sequence[Path] = ()) -> list[Contender]:
    """Contenders by name; if none is named all but those of another mode.

    Those of files take part in any case, and so does "plain", by which ratios are taken.
    """
    known = contenders(files)
    for name in names:
        if name not in known:
            raise ValueError(f"There is no method {name!r}; there are {', '.join(known)}.")
    usual = [name for name, contender in known.items() if not contender.mode]
    wanted = {PLAIN, *(names or usual), *(load_contender(file).name for file in files)}
    return [contender for name, contender in known.items() if name in wanted]


def load_contender(path: Path) -> Contender:
    """A contender from a Python file that defines NAME, conv and linear; the file is run."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    spec = importlib.util.spec_from_file_location(f"contender_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} must be a Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file may raise
        raise ValueError(f"{path} cannot be loaded ({type(error).__name__}: {error}).") from error
    for name in ("NAME", "conv", "linear"):
        if name not in vars(module):
            raise ValueError(f"{path} must define NAME, conv and linear; it lacks {name}.")
    return Contender(str(module.NAME), module.conv, module.linear)


def is_same(built: nn.Module, other: nn.Module) -> bool:
    """Whether two contenders have built the same thing, in types and sizes."""
    types = [[type(module) for module in x.modules()] for x in (built, other)]
    return types[0] == types[1] and repr(built) == repr(other)


def symmetric_padding(kernel: int, stride: int) -> int | str:
    """The `padding` of a torch layer whose output has `size / stride` rows and columns.

    >>> symmetric_padding(4, 2), symmetric_padding(2, 1)
    (1, 'same')
    """
    if (kernel - stride) % 2 == 0 and kernel >= stride:
        return (kernel - stride) // 2
    if stride == 1:
        return "same"
    raise ValueError(f"no symmetric padding fits kernel size {kernel} with stride {stride}")


def _plain_conv(mode: Literal["zeros", "circular"]) -> Callable[..., nn.Module]:
    def conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
        padding = symmetric_padding(kernel, stride)
        return nn.Conv2d(inputs, outputs, kernel, stride, padding, padding_mode=mode)

    return conv


def _otherwise(base: Contender, mode: Mode) -> Contender:
    """A contender in another mode."""
    optimiser = partial(adam, capturable=True) if mode == "captured" else adam
    return replace(
        base, name=f"{base.name}-{mode}", mode=mode, rivals=(), optimiser=optimiser, nets_only=True
    )


def _optimisers(ours: Contender) -> list[Contender]:
    """Nets of taut trained by its own optimiser, where this version has one."""
    optim = vars(taut).get("optim")
    if optim is None:
        return []

    def make(net: nn.Module) -> torch.optim.Optimizer:
        return optim.Adam(net.parameters(), fused=True)

    return [replace(ours, name="taut-optim", optimiser=make, nets_only=True)]


def _method(name: str) -> Contender:
    options = {"parametrization": methods()[name]}
    conv, linear = partial(Conv2d, **options), partial(Linear, **options)
    return Contender(name, conv, linear, lambda case: case.build(name))


def _peer(name: str, module: str, conv: str, linear: str, **options: Any) -> Contender:
    """Another library of orthogonal layers, imported where it is used."""

    def layer(cls: str, *sizes: Any, **options: Any) -> nn.Module:
        try:
            return vars(importlib.import_module(module))[cls](*sizes, **options)
        except ImportError as error:
            raise ImportError(f"not installed: pip install {name}") from error

    def make_conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
        padding = symmetric_padding(kernel, stride)
        return layer(conv, inputs, outputs, kernel, stride, padding, **options)

    return Contender(name, make_conv, partial(layer, linear))
