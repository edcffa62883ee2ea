"""A plan as an ONNX graph of standard operators."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import numpy as np
from torch import Tensor

from taut.deploy.plan import PlainModel, Plan, Step

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["OPSET", "block_order", "onnx_of", "require_onnx"]

OPSET = 19  # the first whose Pad wraps around
_IR_VERSION = 9
_END = (1 << 63) - 1  # of a slice that goes to the end


def require_onnx() -> Any:
    """The package, or how to get it.

    Example:
        >>> require_onnx().__name__
        'onnx'
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError("ONNX files need the extra: pip install 'taut[export]'.") from error
    return onnx


def onnx_of(plan: Plan, *, any_size: bool = False) -> "ModelProto":
    """The ONNX model that computes what a plan says; its batch is of any size.

    Args:
        plan: of float32 tensors.
        any_size: whether rows and columns of the input are left open, too.

    Raises:
        ValueError: if the tensors are in another precision.

    Example:
        >>> model = onnx_of(Plan((Step("a", "ReLU", ("input",)),), {}, "input", (3,)))
        >>> [node.op_type for node in model.graph.node]
        ['Relu']
    """
    onnx = require_onnx()
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    if any(tensor.dtype.itemsize != 4 for tensor in plan.tensors.values()):
        raise ValueError("ONNX files hold float32; call model.float() first.")
    emitter = _Emitter(helper, plan)
    for step in plan.steps:
        emitter.add(step)
    sizes: list[Any] = list(plan.input_shape)
    shape: list[Any] = [*emitter.shapes[plan.steps[-1].name]]
    if any_size:
        sizes[1:] = ["height", "width"]
        shape[1:] = [f"rows_{axis}" for axis in range(1, len(shape))]
    tensors = [
        onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        for name, value in emitter.constants.items()
    ]
    graph = helper.make_graph(
        emitter.nodes,
        "taut",
        [helper.make_tensor_value_info(plan.source, floats, ["batch", *sizes])],
        [helper.make_tensor_value_info(plan.steps[-1].name, floats, ["batch", *shape])],
        tensors,
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
    model.producer_name = "taut"
    helper.set_model_props(model, {"input_shape": ",".join(map(str, plan.input_shape))})
    onnx.checker.check_model(model, full_check=True)
    return model


def block_order(channels: int, factor: int) -> list[int]:
    """Where SpaceToDepth puts the channels that pixel_unshuffle has in this order.

    Example:
        >>> block_order(2, 2)
        [0, 2, 4, 6, 1, 3, 5, 7]
    """
    blocks = factor * factor
    return [block * channels + channel for channel in range(channels) for block in range(blocks)]


@final
class _Emitter:
    def __init__(self, helper: Any, plan: Plan) -> None:
        self.helper, self.shapes = helper, PlainModel(plan).shapes
        self.nodes: list[Any] = []
        self.constants = {name: _array(tensor) for name, tensor in plan.tensors.items()}

    def add(self, step: Step) -> None:
        """The nodes of a step; the last one makes its value."""
        _EMIT[step.kind](self, step, *step.inputs)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self.helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def integers(self, name: str, values: list[int]) -> str:
        self.constants[name] = np.array(values, dtype=np.int64)
        return name

    def slice(self, name: str, x: str, start: int, stop: int) -> str:
        ends = [self.integers(f"{name}.{k}", [v]) for k, v in (("start", start), ("stop", stop))]
        return self.node("Slice", [x, *ends, self.integers(f"{name}.axis", [1])], name)

    def pad(self, name: str, x: str, sides: tuple[int, int, int, int], mode: str) -> str:
        left, right, top, bottom = sides
        pads = self.integers(f"{name}.pads", [0, 0, top, left, 0, 0, bottom, right])
        return self.node("Pad", [x, pads], name, mode=mode)


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()


def _held(step: Step) -> list[str]:
    return [step.tensors[role] for role in ("weight", "bias") if role in step.tensors]


def _conv2d(e: _Emitter, step: Step, x: str) -> None:
    rows, columns = step.args["padding"]
    if step.args["padding_mode"] == "circular" and (rows or columns):
        x = e.pad(f"{step.name}.wrapped", x, (columns, columns, rows, rows), "wrap")
        rows = columns = 0
    options = {"strides": step.args["stride"], "dilations": step.args["dilation"]}
    pads = [rows, columns, rows, columns]
    group = step.args["groups"]
    e.node("Conv", [x, *_held(step)], step.name, **options, pads=pads, group=group)


def _linear(e: _Emitter, step: Step, x: str) -> None:
    e.node("Gemm", [x, *_held(step)], step.name, transB=1)


def _batch_norm(e: _Emitter, step: Step, x: str) -> None:
    held = [step.tensors[role] for role in ("weight", "bias", "running_mean", "running_var")]
    e.node("BatchNormalization", [x, *held], step.name, epsilon=step.args["eps"])


def _maxmin(e: _Emitter, step: Step, x: str) -> None:
    channels = e.shapes[x][0]
    half, name = channels // 2, step.name
    if not half:
        e.node("Identity", [x], name)
        return
    a = e.slice(f"{name}.a", x, 0, half)
    b = e.slice(f"{name}.b", x, half, 2 * half)
    parts = [e.node("Max", [a, b], f"{name}.max"), e.node("Min", [a, b], f"{name}.min")]
    if channels % 2:
        parts.append(e.slice(f"{name}.rest", x, 2 * half, _END))
    e.node("Concat", parts, name, axis=1)


def _group_sort(e: _Emitter, step: Step, x: str) -> None:
    channels, size, name = e.shapes[x][0], step.args["group_size"], step.name
    whole = channels - channels % size
    head = e.slice(f"{name}.head", x, 0, whole)
    groups = e.integers(f"{name}.groups", [0, whole // size, size, -1])
    split = e.node("Reshape", [head, groups], f"{name}.split")
    outputs = [f"{name}.sorted", f"{name}.places"]
    count = e.integers(f"{name}.size", [size])
    options = {"axis": 2, "largest": 0, "sorted": 1}
    e.nodes.append(e.helper.make_node("TopK", [split, count], outputs, outputs[0], **options))
    shape = e.node("Shape", [head], f"{name}.shape")
    parts = [e.node("Reshape", [outputs[0], shape], f"{name}.merged")]
    if channels % size:
        parts.append(e.slice(f"{name}.rest", x, whole, _END))
    e.node("Concat", parts, name, axis=1)


def _downsample(e: _Emitter, step: Step, x: str) -> None:
    factor, name = step.args["factor"], step.name
    blocks = e.node("SpaceToDepth", [x], f"{name}.blocks", blocksize=factor)
    order = e.integers(f"{name}.order", block_order(e.shapes[x][0], factor))
    e.node("Gather", [blocks, order], name, axis=1)


def _pad_to_multiple(e: _Emitter, step: Step, x: str) -> None:
    name = step.name
    size = e.node("Shape", [x], f"{name}.size", start=2, end=4)
    negative = e.node("Neg", [size], f"{name}.negative")
    multiple = e.integers(f"{name}.multiple", list(step.args["multiple"]))
    missing = e.node("Mod", [negative, multiple], f"{name}.missing")
    before = e.integers(f"{name}.before", [0] * 6)
    pads = e.node("Concat", [before, missing], f"{name}.pads", axis=0)
    e.node("Pad", [x, pads], name, mode="constant")


def _zero_pad(e: _Emitter, step: Step, x: str) -> None:
    e.pad(step.name, x, step.args["padding"], "constant")


def _pool(kind: str) -> Callable[[_Emitter, Step, str], None]:
    def emit(e: _Emitter, step: Step, x: str) -> None:
        options = {"kernel_shape": step.args["kernel_size"], "strides": step.args["stride"]}
        e.node(kind, [x], step.name, **options)

    return emit


def _scale(e: _Emitter, step: Step, x: str) -> None:
    factor = np.float32(step.args["factor"])
    if not math.isfinite(factor):
        raise ValueError(f"`{step.name}` multiplies by {step.args['factor']}.")
    e.constants[f"{step.name}.factor"] = np.array(factor)
    e.node("Mul", [x, f"{step.name}.factor"], step.name)


def _plain(kind: str, **attributes: Any) -> Callable[..., None]:
    return lambda e, step, *inputs: e.node(kind, list(inputs), step.name, **attributes)


_EMIT: dict[str, Callable[..., None]] = {
    "Add": _plain("Add"),
    "AdaptiveAvgPool2d": _plain("GlobalAveragePool"),
    "AvgPool2d": _pool("AveragePool"),
    "BatchNorm2d": _batch_norm,
    "Concatenate": _plain("Concat", axis=1),
    "Conv2d": _conv2d,
    "Flatten": _plain("Flatten", axis=1),
    "GroupSort": _group_sort,
    "InvertibleDownsample2d": _downsample,
    "Linear": _linear,
    "MaxMin": _maxmin,
    "MaxPool2d": _pool("MaxPool"),
    "PadToMultiple2d": _pad_to_multiple,
    "ReLU": _plain("Relu"),
    "Scale": _scale,
    "ZeroPad2d": _zero_pad,
}
