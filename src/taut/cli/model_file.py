"""A model that a function in a Python file makes, with weights from a safetensors file."""

import importlib.util
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from taut.files import load_tensors


def parse_shape(text: str) -> tuple[int, ...]:
    """The shape that text such as "3,32,32" names.

    Example:
        >>> parse_shape("3,32,32")
        (3, 32, 32)
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"`input_shape` must be positive integers such as 3,32,32; got {text!r}.")
    return tuple(map(int, parts))


def load_model(source: str, weights: Path | None) -> nn.Module:
    """Run the file, call the function, load the weights; the model comes in eval mode.

    Args:
        source: FILE.py:FUNCTION.
        weights: a state as safetensors; None keeps what the function made.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file or the function fails, naming the line; if the function is not
            there, makes no model, or the weights do not fit it.

    Example:
        >>> load_model("nowhere.py:make", None)
        Traceback (most recent call last):
        FileNotFoundError: There is no file nowhere.py.
    """
    file, _, name = source.rpartition(":")
    if not file or not name:
        raise ValueError(f"`model` must be FILE.py:FUNCTION; got {source!r}.")
    make = _function(Path(file), name)
    with _told(Path(file)):
        model = make()
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} in {file} must return a torch.nn.Module; got {type(model)}.")
    if weights is not None:
        tensors, _ = load_tensors(weights)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{weights} does not fit the model ({reason}).") from None
    return model.eval()


def _function(file: Path, name: str) -> Callable[[], object]:
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"`model` must name a Python file; got {file}.")
    module = importlib.util.module_from_spec(spec)
    with _told(file):
        spec.loader.exec_module(module)
    function = vars(module).get(name)
    if not callable(function):
        raise ValueError(f"{file} has no function {name}.")
    return function


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Say in a sentence what went wrong in the user's file, and where: its last line involved."""
    try:
        yield
    except SyntaxError as error:
        place = f"{error.filename or file}, line {error.lineno}"
        raise ValueError(f"{place}: not Python ({error.msg}).") from None
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == file.resolve()]
        place = f"{file}, line {lines[-1]}" if lines else f"{file}"
        text = " ".join(str(error).split())
        raise ValueError(f"{place}: {type(error).__name__}{': ' if text else ''}{text}") from None
