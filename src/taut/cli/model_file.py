"""A model that a function in a Python file makes, with weights from a file."""

import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from taut.certification import Certification, as_rational, certify
from taut.cli.shared import OptionalFolder, OptionalText
from taut.data import load_test
from taut.export import load as load_exported
from taut.files import load_tensors, rounded_tensors
from taut.kinds import did_you_mean, load_object, one_sentence
from taut.training import Device, OpenedRun, check_limit, choose_device

_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class ModelFile:
    """Any torch model, instead of a run.

    Args:
        model: FILE.py:FUNCTION that makes the model; the file is executed.
        weights: its state_dict, as .safetensors, .pt or .pth; a model that would round them is run
            in their precision.
        input_shape: shape of one input, such as 3,32,32.
        data: npz file with test images; without it, certify and export prove the bound alone, and
            inspect takes uniform noise in [0, 1].
    """

    model: OptionalText = None
    weights: OptionalFolder = None
    input_shape: OptionalText = None
    data: OptionalFolder = None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of one input, if it is given."""
        if self.input_shape is None:
            return None
        parts = self.input_shape.split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            raise ValueError(
                "`input_shape` must be positive integers such as 3,32,32; "
                f"got {self.input_shape!r}."
            )
        return tuple(map(int, parts))

    def load(self) -> tuple[nn.Module, tuple[int, ...]]:
        """The model in eval mode, and the shape of one input."""
        if self.model is None or self.shape is None:
            raise ValueError("`model` needs `input_shape`, such as 3,32,32.")
        return _load_model(self.model, self.weights), self.shape

    def open(self, device: torch.device) -> "OpenedFile":
        """The model with its test images, which are needed."""
        model, shape = self.load()
        if self.data is None or self.model is None:
            raise ValueError("`model` needs `data` here, an npz file with test images.")
        images, labels = load_test("npz", self.data)
        if images.shape[1:] != shape:
            got = ",".join(map(str, images.shape[1:]))
            raise ValueError(
                f"`input_shape` must be that of the images in {self.data}; they are {got}."
            )
        kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} or {torch.float32}
        images = images.to(device, kinds.pop())
        return OpenedFile(self.model, model.to(device), images, labels.to(device), self.data)

    def load_exported(self, file: Path) -> tuple[nn.Module, tuple[int, ...]]:
        """The model of a file that `taut export` wrote, and the shape of one input."""
        if self.weights is not None:
            raise ValueError("An exported file has its own weights; leave out --weights.")
        return load_exported(file, self.shape)

    def refuse_beside_run(self, output: Path | None = None) -> None:
        """Refuse options of a model in a file where a run folder is given."""
        if self != NO_FILE or output is not None:
            raise ValueError(
                "A run folder has its own model and data; leave out the options of files."
            )


NO_FILE = ModelFile()


@dataclass(frozen=True, eq=False)
class OpenedFile:
    """A model of a file with its test images on one device; `OpenedRun` is that of a run.

    Args:
        name: of the model.
        model: in eval mode.
        test: test images.
        labels: theirs.
        data: the file of the images.
    """

    name: str
    model: nn.Module
    test: Tensor
    labels: Tensor
    data: Path

    def radii(self, eps: Sequence[str] = ()) -> tuple[str, ...]:
        """The radii asked for, or those of the literature, in rising order."""
        return radii_of(eps)

    def head(self, limit: int) -> tuple[Tensor, Tensor]:
        """The first `limit` test images and their labels."""
        check_limit(limit)
        return self.test[:limit], self.labels[:limit]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(self.test.shape[1:])

    def certify(self, eps: Sequence[str], *, model: nn.Module | None = None) -> Certification:
        """Certify the model, or another one, on all test images."""
        return certify(model or self.model, self.test, self.labels, eps)

    def title(self, count: int | None = None) -> str:
        """The file of the images and how many, all by default."""
        count = len(self.test) if count is None else count
        return f"{self.data.name}, {count:,} test images"


def open_model(
    run: Path | None, plain: ModelFile, device: Device, data_dir: Path | None
) -> OpenedRun | OpenedFile:
    """A run, or a model in a file with test images."""
    if (run is None) == (plain.model is None):
        raise ValueError("Give a run folder, or a model with --model FILE.py:FUNCTION.")
    if run is not None:
        plain.refuse_beside_run()
        return OpenedRun.open(run, device=device, data_dir=data_dir)
    if data_dir is not None:
        raise ValueError("`data_dir` is for a run folder; give test images with --data.")
    return plain.open(choose_device(device))


def radii_of(eps: Sequence[str]) -> tuple[str, ...]:
    """The radii asked for, or those of the literature, in rising order."""
    return tuple(sorted(eps or ("36/255", "72/255", "108/255"), key=as_rational))


def _load_model(source: str, weights: Path | None) -> nn.Module:
    make = load_object(source)
    file = Path(source.rpartition(":")[0])
    if not callable(make):
        raise ValueError(f"{source} must be a function that returns a torch.nn.Module.")
    with one_sentence(file):
        model = make()
    if not isinstance(model, nn.Module):
        raise ValueError(f"{source} must return a torch.nn.Module; got {type(model).__name__}.")
    if weights is not None:
        state = _read_state(weights)
        _take_precision(model, state, weights)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{weights} does not fit the model ({reason}).") from None
    return model.eval()


def _take_precision(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Give a model the precision of its weights, if its own would round them."""
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(dtypes) == 1 and rounded_tensors(model, state):
        model.to(dtype=dtypes.pop())
    if rounded := rounded_tensors(model, state):
        name, own = rounded[0], model.state_dict()
        raise ValueError(
            f"{path} does not fit the model, which would round {name}, {state[name].dtype}, to "
            f"{own[name].dtype}."
        )


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.suffix not in _SUFFIXES and not zipfile.is_zipfile(path):
        hint = did_you_mean(path.suffix, _SUFFIXES)
        raise ValueError(f"`weights` must end in {', '.join(_SUFFIXES)}; got {path}.{hint}")
    if path.suffix == ".safetensors":
        return load_tensors(path)[0]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} is damaged, or holds more than tensors ({reason}).") from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} must hold a state_dict, tensors by name.")
    return state
