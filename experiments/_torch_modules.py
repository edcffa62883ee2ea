"""What taut says of each module of torch.nn: its bound, or why it has none."""

import warnings
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from experiments._show import markdown
from taut.program import UnprovenError, lipschitz_bound

__all__ = ["ABSENT", "CASES", "TABLES", "ModuleCase", "modules_of_torch"]


@final
@dataclass(frozen=True)
class ModuleCase:
    """A module of torch.nn by its arguments, and the shape of one input."""

    name: str
    args: tuple[Any, ...]
    shape: tuple[int, ...]
    options: dict[str, Any]

    def module(self) -> nn.Module:
        """The module with weights of one seed, in evaluation."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return getattr(nn, self.name)(*self.args, **self.options).eval()

    def __str__(self) -> str:
        """As it is written in a program."""
        shown = [repr(value) for value in self.args]
        shown += [f"{name}={value!r}" for name, value in self.options.items()]
        return f"{self.name}({', '.join(shown)})"


def case(name: str, shape: tuple[int, ...], *args: Any, **options: Any) -> ModuleCase:
    return ModuleCase(name, args, shape, options)


LINE, IMAGE, SOLID, ROW = (2, 12), (2, 6, 6), (2, 4, 4, 4), (6,)

CASES = (
    # Each entry alone.
    *(case(name, ROW) for name in (
        "ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "Hardtanh", "Hardsigmoid", "Hardswish",
        "Hardshrink", "Softshrink", "ELU", "CELU", "SELU", "SiLU", "GELU", "Mish", "Sigmoid",
        "LogSigmoid", "Tanh", "Tanhshrink", "Softplus", "Softsign",
    )),
    case("LeakyReLU", ROW, -3.0),
    case("Hardshrink", ROW, 0.0),
    case("Threshold", ROW, 0.5, 0.5),
    case("Threshold", ROW, 0.5, 0.0),
    case("ELU", ROW, 2.0),
    case("CELU", ROW, 0.5),
    case("GELU", ROW, approximate="tanh"),
    # Along an axis.
    case("Softmax", ROW, 1),
    case("Softmax2d", IMAGE),
    case("Softmin", ROW, 1),
    case("LogSoftmax", ROW, 1),
    case("GLU", ROW),
    # Matrices and convolutions.
    case("Linear", ROW, 6, 3),
    case("Bilinear", ROW, 6, 6, 3),
    case("Conv1d", LINE, 2, 3, 3, padding=1),
    case("Conv2d", IMAGE, 2, 3, 3, padding=1),
    case("Conv3d", SOLID, 2, 3, 3, padding=1),
    case("ConvTranspose1d", LINE, 2, 3, 3, stride=2),
    case("ConvTranspose2d", IMAGE, 2, 3, 3, stride=2),
    case("ConvTranspose3d", SOLID, 2, 3, 3, stride=2),
    # Pools.
    *(case(f"AvgPool{d}d", shape, 3, 2) for d, shape in ((1, LINE), (2, IMAGE), (3, SOLID))),
    case("AvgPool2d", IMAGE, 3, 2, padding=1, count_include_pad=False),
    case("AvgPool2d", IMAGE, 3, 2, ceil_mode=True),
    case("AvgPool2d", IMAGE, 2, divisor_override=3),
    *(case(f"MaxPool{d}d", shape, 3, 2) for d, shape in ((1, LINE), (2, IMAGE))),
    case("MaxPool3d", SOLID, 2, 1),
    case("MaxPool2d", IMAGE, 2),
    *(case(f"AdaptiveAvgPool{d}d", shape, 3) for d, shape in ((1, LINE), (2, IMAGE), (3, SOLID))),
    case("AdaptiveAvgPool2d", IMAGE, 4),
    *(case(f"AdaptiveMaxPool{d}d", shape, 3) for d, shape in ((1, LINE), (2, IMAGE), (3, SOLID))),
    case("AdaptiveMaxPool2d", IMAGE, 4),
    *(case(f"LPPool{d}d", shape, 2, 2) for d, shape in ((1, LINE), (2, IMAGE), (3, SOLID))),
    case("LPPool2d", IMAGE, 2, 3, 2),
    case("LPPool2d", IMAGE, 3, 2),
    case("FractionalMaxPool2d", IMAGE, 2, 3),
    case("FractionalMaxPool3d", SOLID, 2, 2),
    case("MaxUnpool1d", LINE, 2),
    case("MaxUnpool2d", IMAGE, 2),
    case("MaxUnpool3d", SOLID, 2),
    # Pads.
    *(case(f"{mode}Pad{d}d", shape, 1, *([0.5] if mode == "Constant" else []))
      for mode in ("Zero", "Constant", "Circular", "Reflection", "Replication")
      for d, shape in ((1, LINE), (2, IMAGE), (3, SOLID))),
    # Upsampling.
    *(case("Upsample", shape, scale_factor=2, mode=mode) for mode, shape in (
        ("nearest", IMAGE), ("nearest-exact", IMAGE), ("linear", LINE), ("bilinear", IMAGE),
        ("bicubic", IMAGE), ("trilinear", SOLID), ("area", IMAGE),
    )),
    *(case("Upsample", IMAGE, size=(9, 4), mode=mode) for mode in ("bilinear", "bicubic", "area")),
    *(case("Upsample", shape, scale_factor=2, mode=mode, align_corners=True)
      for mode, shape in (("linear", LINE), ("bilinear", IMAGE), ("bicubic", IMAGE),
                          ("trilinear", SOLID))),
    case("UpsamplingNearest2d", IMAGE, scale_factor=2),
    case("UpsamplingBilinear2d", IMAGE, scale_factor=2),
    # Shapes.
    case("Identity", ROW),
    case("Flatten", IMAGE),
    case("Unflatten", ROW, 1, (2, 3)),
    case("PixelShuffle", (4, 3, 3), 2),
    case("PixelUnshuffle", IMAGE, 2),
    case("ChannelShuffle", (4, 3, 3), 2),
    case("Unfold", IMAGE, 2),
    case("Fold", (8, 9), (4, 4), 2),
    # Dropout, in evaluation.
    case("Dropout", ROW),
    case("Dropout1d", LINE),
    case("Dropout2d", IMAGE),
    case("Dropout3d", SOLID),
    case("AlphaDropout", ROW),
    case("FeatureAlphaDropout", IMAGE),
    # Normalisation.
    case("BatchNorm1d", LINE, 2),
    case("BatchNorm2d", IMAGE, 2),
    case("BatchNorm3d", SOLID, 2),
    case("SyncBatchNorm", IMAGE, 2),
    case("InstanceNorm1d", LINE, 2),
    case("InstanceNorm2d", IMAGE, 2),
    case("InstanceNorm3d", SOLID, 2),
    case("InstanceNorm2d", IMAGE, 2, track_running_stats=True),
    case("LayerNorm", ROW, 6),
    case("LayerNorm", ROW, 6, eps=0.1),
    case("GroupNorm", (4, 6), 2, 4),
    case("GroupNorm", (4, 6), 2, 4, eps=0.1),
    case("InstanceNorm2d", IMAGE, 2, eps=0.1),
    case("RMSNorm", ROW, 6, eps=0.1),
    case("RMSNorm", ROW, 6),
    case("LocalResponseNorm", IMAGE, 2),
    case("CrossMapLRN2d", IMAGE, 2),
    # Several inputs, indices, sequences.
    case("CosineSimilarity", ROW),
    case("PairwiseDistance", ROW),
    case("Embedding", ROW, 10, 3),
    case("EmbeddingBag", ROW, 10, 3),
    case("RNN", (4, 6), 6, 3, batch_first=True),
    case("LSTM", (4, 6), 6, 3, batch_first=True),
    case("GRU", (4, 6), 6, 3, batch_first=True),
    case("RNNCell", ROW, 6, 3),
    case("LSTMCell", ROW, 6, 3),
    case("GRUCell", ROW, 6, 3),
    case("MultiheadAttention", (4, 6), 6, 2, batch_first=True),
    case("TransformerEncoderLayer", (4, 6), 6, 2, 8, batch_first=True),
    case("TransformerDecoderLayer", (4, 6), 6, 2, 8, batch_first=True),
    case("Transformer", (4, 6), 6, 2, 1, 1, 8, batch_first=True),
    # Losses.
    *(case(name, ROW) for name in (
        "BCELoss", "BCEWithLogitsLoss", "CTCLoss", "CosineEmbeddingLoss", "CrossEntropyLoss",
        "GaussianNLLLoss", "HingeEmbeddingLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss",
        "MarginRankingLoss", "MultiLabelMarginLoss", "MultiLabelSoftMarginLoss", "MultiMarginLoss",
        "NLLLoss", "NLLLoss2d", "PoissonNLLLoss", "SmoothL1Loss", "SoftMarginLoss",
        "TripletMarginLoss", "TripletMarginWithDistanceLoss",
    )),
    case("AdaptiveLogSoftmaxWithLoss", ROW, 6, 5, [2]),
    # Since torch 2.13.
    *(case(name, ROW, 6, 5) for name in ("LinearCrossEntropyLoss",) if hasattr(nn, name)),
)  # fmt: skip
"""Each module of torch.nn once at least."""

ABSENT = {
    "Container": "holds modules", "Sequential": "the product of its layers",
    "Module": "the class of all", "ModuleDict": "holds modules", "ModuleList": "holds modules",
    "ParameterDict": "holds tensors", "ParameterList": "holds tensors",
    "DataParallel": "wraps a model; pass model.module", "RNNBase": "the class of RNN",
    "RNNCellBase": "the class of RNNCell", "TransformerEncoder": "holds layers",
    "TransformerDecoder": "holds layers",
}  # fmt: skip
"""Names of torch.nn that are no layers, and what they are; lazy ones become others."""


def modules_of_torch() -> list[str]:
    """All names of modules that torch.nn exports."""
    return [
        name
        for name, value in sorted(vars(nn).items())
        if isinstance(value, type) and issubclass(value, nn.Module)
    ]


def said_of(each: ModuleCase) -> tuple[str, str]:
    """The bound of a module and its proof; or that it is refused, and the reason."""
    module = each.module()
    try:
        bound = lipschitz_bound(module, each.shape)
        table = lipschitz_bound(nn.Sequential(module).eval(), each.shape).layers
    except UnprovenError as error:
        return "refused", str(error).partition("has no proven bound: ")[2].rstrip(".")
    return f"{float(bound):.6g}", table[-1].proof if table else "does nothing in evaluation"


def torch_modules_table() -> str:
    """One row for each module of torch.nn; those with weights have fixed ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of NLLLoss2d
        rows = [(f"`{each}`", _sizes(each.shape), *said_of(each)) for each in CASES]
    return markdown(("module", "input", "bound", "proof, or reason"), rows)


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def absent_table() -> str:
    """Names of torch.nn that have no row."""
    return markdown(("name", "what it is"), [(f"`{k}`", v) for k, v in sorted(ABSENT.items())])


TABLES = {"torch-modules": torch_modules_table, "torch-absent": absent_table}
