"""Programs as ONNX graphs of standard operators."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from taut.program import Program, Site, operation

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["onnx_of", "require_onnx"]

OPSET = 19  # the first whose Pad wraps around
_IR_VERSION = 9


def require_onnx() -> Any:
    """The package, or how to get it."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError("ONNX files need the extra: pip install 'taut[export]'.") from error
    return onnx


def onnx_of(program: Program, *, any_size: bool = False) -> "ModelProto":
    """The ONNX model that computes a program; its batch is of any size."""
    onnx = require_onnx()
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    if any(t.is_floating_point() and t.dtype != torch.float32 for t in program.tensors.values()):
        raise ValueError("ONNX files hold float32; call model.float() first.")
    writer = OnnxWriter(helper, program, any_size=any_size)
    for site in program.sites():
        writer.add(site)
    sizes: list[Any] = list(program.input_shape)
    shape: list[Any] = list(program.shapes[program.output])
    if any_size:
        sizes[1:] = ["height", "width"]
        shape[1:] = [f"rows_{axis}" for axis in range(1, len(shape))]
    tensors = [
        onnx.numpy_helper.from_array(np.asarray(value, order="C"), name)
        for name, value in writer.constants.items()
    ]
    graph = helper.make_graph(
        writer.nodes,
        "taut",
        [helper.make_tensor_value_info(program.source, floats, ["batch", *sizes])],
        [helper.make_tensor_value_info(program.output, floats, ["batch", *shape])],
        tensors,
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
    model.producer_name = "taut"
    helper.set_model_props(model, {"input_shape": ",".join(map(str, program.input_shape))})
    onnx.checker.check_model(model, full_check=True)
    return model


@final
class OnnxWriter:
    """What operations write their nodes with; names grow from the name of the operation.

    Attributes:
        nodes: written so far.
        constants: of the graph, by name.
        any_size: whether rows and columns of images are left open.
    """

    def __init__(self, helper: Any, program: Program, *, any_size: bool = False) -> None:
        self.helper, self.site, self.any_size = helper, None, any_size
        self.nodes: list[Any] = []
        self.constants = {name: t.detach().cpu().numpy() for name, t in program.tensors.items()}

    def add(self, site: Site) -> None:
        """The nodes of an operation; the last one makes its value."""
        self.site = site
        try:
            operation(site).emit(self, site, *site.node.inputs)
        except ValueError as error:
            where = f"`{site.node.name}` ({site.node.type or site.node.op})"
            raise ValueError(f"{where} cannot be exported: {str(error).rstrip('.')}.") from None

    def _name(self, suffix: str) -> str:
        assert self.site is not None
        return f"{self.site.node.name}.{suffix}" if suffix else self.site.node.name

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        suffix: str = "",
        *,
        outputs: Sequence[str] = (),
        **options: Any,
    ) -> str:
        """A node; returns the name of its first value, by default that of the operation."""
        name = self._name(suffix)
        values = [name, *(self._name(output) for output in outputs)]
        self.nodes.append(self.helper.make_node(kind, list(inputs), values, name, **options))
        return name

    def held(self, site: Site, *roles: str) -> list[str]:
        """The names of tensors of the operation, of those that it has."""
        return [site.node.tensors[role] for role in roles if role in site.node.tensors]

    def integers(self, suffix: str, values: Sequence[int]) -> str:
        """A constant of whole numbers."""
        return self._constant(suffix, np.array(values, dtype=np.int64))

    def integer(self, suffix: str, value: int) -> str:
        """A constant of one whole number."""
        return self._constant(suffix, np.array(value, dtype=np.int64))

    def number(self, suffix: str, value: float) -> str:
        """A constant of one number in float32."""
        if not math.isfinite(np.float32(value)):
            raise ValueError(f"it has the number {value}")
        return self._constant(suffix, np.array(value, dtype=np.float32))

    def numbers(self, suffix: str, values: Sequence[float]) -> str:
        """A constant of several numbers in float32."""
        return self._constant(suffix, np.array(values, dtype=np.float32))

    def tensor(self, suffix: str, value: Tensor) -> str:
        """A constant tensor of float32."""
        return self._constant(suffix, value.detach().cpu().float().numpy())

    def pad(self, suffix: str, x: str, left: Sequence[int], right: Sequence[int], mode: str) -> str:
        """Pads around the spatial axes of an image."""
        pads = self.integers(f"{suffix}.pads", [0, 0, *left, 0, 0, *right])
        return self.node("Pad", [x, pads], suffix, mode=mode)

    def channels(self, suffix: str, x: str, start: int, stop: int) -> str:
        """Some of the channels of a value."""
        ends = [self.integers(f"{suffix}.{k}", [v]) for k, v in (("start", start), ("stop", stop))]
        return self.node("Slice", [x, *ends, self.integers(f"{suffix}.axis", [1])], suffix)

    def unsqueezed(self, suffix: str, x: str, axes: Sequence[int]) -> str:
        """A value with axes of size 1 inserted; itself where there are none."""
        if not axes:
            return x
        return self.node("Unsqueeze", [x, self.integers(f"{suffix}.axes", axes)], suffix)

    def _constant(self, suffix: str, value: Any) -> str:
        name = self._name(suffix)
        self.constants[name] = value
        return name
