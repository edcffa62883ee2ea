"""A model that a function in a Python file makes, with weights from a file."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from taut.cli.shared import OptionalFolder, OptionalText
from taut.files import load_tensors, rounded_tensors
from taut.kinds import did_you_mean, load_object, one_sentence

_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class ModelFile:
    """Any torch model, instead of a run.

    Args:
        model: FILE.py:FUNCTION that makes the model; the file is executed.
        weights: its state_dict, as .safetensors, .pt or .pth; a model that would round them is run
            in their precision.
        input_shape: shape of one input, such as 3,32,32.
        data: npz file with test images; without it, certify prints the bound alone, and inspect
            takes uniform noise in [0, 1].
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

    def refuse_beside_run(self, output: Path | None = None) -> None:
        """Refuse options of a model in a file where a run folder is given."""
        if self != NO_FILE or output is not None:
            raise ValueError(
                "A run folder has its own model and data; leave out the options of files."
            )


NO_FILE = ModelFile()


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
    if path.suffix not in _SUFFIXES:
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
