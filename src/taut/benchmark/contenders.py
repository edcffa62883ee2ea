"""Who is measured: named functions that build a layer, each with its library's defaults."""

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

from torch import nn

from taut.benchmark import peers
from taut.benchmark.cases import Case, NetCase
from taut.nn import Conv2d, Linear
from taut.parametrizations import AbstractParametrization, methods

PLAIN = "plain"
TAUT = "taut"


@final
@dataclass(frozen=True)
class Contender:
    """A way to build layers.

    Args:
        name: as tables show it.
        conv: `(in_channels, out_channels, kernel_size, stride)` to a layer that pads circularly and
            answers `size / stride` rows and columns.
        linear: `(in_features, out_features)` to a layer.
        net: builds a net as the contender would; None maps taut's net to its twin layer by layer.

    Example:
        >>> lazy = Contender("lazy", lambda *sizes: nn.Identity(), lambda *sizes: nn.Identity())
        >>> lazy.linear(8, 8)
        Identity()
    """

    name: str
    conv: Callable[..., nn.Module]
    linear: Callable[..., nn.Module]
    net: Callable[[NetCase], nn.Sequential] | None = None

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
    """The same net with a contender's layers in place of taut's.

    Args:
        net: of layers of taut, activations and the like; those are kept.
        contender: builds its layers.

    Example:
        >>> twin(nn.Sequential(Linear(4, 2)), contenders()["plain"])
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
        )
    """

    def replaced(layer: nn.Module) -> nn.Module:
        if isinstance(layer, Conv2d):
            sizes = (layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0])
            return contender.conv(*sizes)
        if isinstance(layer, Linear):
            return contender.linear(layer.in_features, layer.out_features)
        return layer

    return nn.Sequential(*map(replaced, net))


def contenders(files: Sequence[Path] = ()) -> dict[str, Contender]:
    """All contenders by name: plain torch, taut, its methods one by one, peers, those of files.

    Args:
        files: see :func:`load_contender`.

    Returns:
        The contenders. "taut" is what a user gets who names no parametrization.

    Example:
        >>> list(contenders())[:3]
        ['plain', 'taut', 'BCOP']
    """
    found = [
        Contender(PLAIN, _plain_conv, nn.Linear),
        Contender(TAUT, Conv2d, Linear, NetCase.build),
        *(_method(name, cls) for name, cls in methods().items()),
        Contender("orthogonium", peers.orthogonium_conv, peers.orthogonium_linear),
        Contender("deel-torchlip", peers.torchlip_conv, peers.torchlip_linear),
        *map(load_contender, files),
    ]
    return {contender.name: contender for contender in found}


def select(names: Sequence[str], files: Sequence[Path] = ()) -> list[Contender]:
    """Contenders by name; all of them if none is named.

    Those of files take part in any case, and so does "plain", by which ratios are taken.

    Raises:
        ValueError: if there is none of a name, or a file is not a contender.

    Example:
        >>> [contender.name for contender in select(["taut"])]
        ['plain', 'taut']
    """
    known = contenders(files)
    for name in names:
        if name not in known:
            raise ValueError(f"There is no method {name!r}; there are {', '.join(known)}.")
    wanted = {PLAIN, *(names or known), *(load_contender(file).name for file in files)}
    return [contender for name, contender in known.items() if name in wanted]


def load_contender(path: Path) -> Contender:
    """A contender from a Python file that defines NAME, conv and linear.

    Args:
        path: the file; it is run. Its functions are those of :class:`Contender`.

    Raises:
        ValueError: if one of the three is missing, or the file fails when it is run.
        FileNotFoundError: if there is no such file.

    Example:
        >>> load_contender(Path("nowhere.py"))
        Traceback (most recent call last):
        FileNotFoundError: There is no file nowhere.py.
    """
    content = _run_file(path)
    missing = [name for name in ("NAME", "conv", "linear") if name not in content]
    if missing:
        raise ValueError(f"{path} must define NAME, conv and linear; it lacks {missing[0]}.")
    return Contender(str(content["NAME"]), content["conv"], content["linear"])


def _run_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    spec = importlib.util.spec_from_file_location(f"taut_contender_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} must be a Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file may raise
        raise ValueError(f"{path} cannot be loaded ({type(error).__name__}: {error}).") from error
    return vars(module)


def _plain_conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    padding = peers.symmetric_padding(kernel, stride)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, padding_mode="circular")


def _method(name: str, cls: type[AbstractParametrization]) -> Contender:
    return Contender(
        name,
        partial(_method_conv, cls),
        partial(Linear, parametrization=cls),
        lambda case: case.build(name),
    )


def _method_conv(
    cls: type[AbstractParametrization], inputs: int, outputs: int, kernel: int, stride: int
) -> nn.Module:
    return Conv2d(inputs, outputs, kernel, stride, parametrization=cls)


def is_same(built: nn.Module, other: nn.Module) -> bool:
    """Whether two contenders have built the same thing, in types and sizes.

    Example:
        >>> is_same(nn.Linear(2, 2), nn.Linear(2, 2)), is_same(nn.Linear(2, 2), Linear(2, 2))
        (True, False)
    """
    types = [[type(module) for module in x.modules()] for x in (built, other)]
    return types[0] == types[1] and repr(built) == repr(other)
