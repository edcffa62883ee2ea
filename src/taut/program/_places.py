"""Where in a model something happens: its innermost module, as messages and nodes name it."""

import sys
from dataclasses import dataclass, field
from typing import Any, final

from torch import nn

from taut.program._replay import ProgramModule

__all__ = ["Layer", "Places"]

_CONTAINERS = (nn.Sequential, ProgramModule)
"""Modules that run operations of any kind: a node of theirs goes by the name of its function."""


@final
@dataclass(frozen=True)
class Layer:
    """Where in a model a function was called: the innermost module, and its call."""

    path: str
    type: str
    library: bool
    frame: Any = field(default=None, compare=False)


@final
class Places:
    """The modules of a model by their first paths."""

    def __init__(self, model: nn.Module) -> None:
        self.paths: dict[int, str] = {}
        for path, module in model.named_modules():
            self.paths.setdefault(id(module), path)

    def layer(self, title: str) -> Layer:
        """The innermost module whose forward is running, by the frames of the interpreter."""
        frame = sys._getframe(1)
        while frame is not None:
            names = frame.f_code.co_varnames
            if frame.f_code.co_argcount and names[0] == "self":
                module = frame.f_locals.get("self")
                if isinstance(module, nn.Module) and id(module) in self.paths:
                    kind = type(module)
                    library = kind.__module__.partition(".")[0] in ("torch", "taut")
                    library = library and not isinstance(module, _CONTAINERS)
                    return Layer(
                        self.paths[id(module)], kind.__name__ if library else title, library, frame
                    )
            frame = frame.f_back
        return Layer("", title, False)

    def of_error(self, error: Exception) -> tuple[str, nn.Module | None]:
        """The innermost module in whose forward an error was raised, in words and itself."""
        place, innermost, trace = "`model`", None, error.__traceback__
        while trace is not None:
            module = trace.tb_frame.f_locals.get("self")
            if isinstance(module, nn.Module) and id(module) in self.paths:
                place = f"`{self.paths[id(module)] or 'model'}` ({type(module).__name__})"
                innermost = module
            trace = trace.tb_next
        return place, innermost
