"""A model that a function in a Python file makes, with weights from a file."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from taut.cli.shared import OptionalFolder, OptionalText
from taut.files import load_tensors
from taut.kinds import load_object, one_sentence


@dataclass(frozen=True)
class ModelFile:
    """Any torch model, instead of a run.

    Args:
        model: FILE.py:FUNCTION that makes the model; the file is executed.
        weights: its state_dict, as .safetensors, .pt or .pth.
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
        return None if self.input_shape is None else parse_shape(self.input_shape)


NO_FILE = ModelFile()


def parse_shape(text: str) -> tuple[int, ...]:
    """The shape in a text such as "3,32,32"."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"`input_shape` must be positive integers such as 3,32,32; got {text!r}.")
    return tuple(map(int, parts))


def load_model(source: str, weights: Path | None) -> nn.Module:
    """The model that FILE.py:FUNCTION makes, with the weights of a file if given, in eval mode."""
    make = load_object(source)
    file = Path(source.rpartition(":")[0])
    if not callable(make):
        raise ValueError(f"{source} must be a function that returns a torch.nn.Module.")
    with one_sentence(file):
        model = make()
    if not isinstance(model, nn.Module):
        raise ValueError(f"{source} must return a torch.nn.Module; got {type(model).__name__}.")
    if weights is not None:
        try:
            model.load_state_dict(_read_state(weights))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{weights} does not fit the model ({reason}).") from None
    return model.eval()


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix not in (".pt", ".pth") or not path.is_file():
        return load_tensors(path)[0]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} is damaged, or holds more than tensors ({reason}).") from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} must hold a state_dict, tensors by name.")
    return state
