"""What exported files could not hold of a model, found without writing one."""

import copy
from collections.abc import Iterator
from typing import Any, final

from torch import nn

from taut.export._change import Change
from taut.export._freeze import freeze
from taut.export._naming import renamed
from taut.export._onnx import OnnxWriter
from taut.export._plain_file import check_form
from taut.export._sizes import with_taps
from taut.program import trace

__all__ = ["unwritten"]


def unwritten(model: nn.Module, shape: tuple[int, ...]) -> Iterator[Change]:
    """One change for each operation that a kind of file cannot hold.

    The frozen model is recorded, and each of its operations is asked for its form, as an export
    does; nothing is written. Models without a program are left out: `left` says why.
    """
    try:
        frozen = freeze(copy.deepcopy(model).eval(), shape)
        program = trace(with_taps(frozen, shape), shape, through=True)
    except ValueError:
        return
    named = renamed(program)
    for kind, write in (
        (".onnx", OnnxWriter(_NoHelper(), named).add),
        (".safetensors", check_form),
    ):
        for node, site in zip(program.nodes, named.sites(), strict=True):
            try:
                write(site)
            except ValueError as error:
                reason = str(error).partition("cannot be exported: ")[2] or str(error)
                title = node.type or node.op
                yield Change(node.path or node.name, title, title, reason.rstrip("."), kind)


@final
class _NoHelper:
    """In the place of the functions of ONNX that make nodes."""

    def make_node(self, *_: Any, **__: Any) -> None:
        """Nothing."""
