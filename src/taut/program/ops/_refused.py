"""What has no rule, and why: functions and modules of torch without a useful Lipschitz constant."""

from typing import Any, NoReturn

from torch import nn

from taut.program._call import Call
from taut.program._op import captures
from taut.program._result import UnprovenError

__all__ = ["FUNCTIONS_REFUSED", "MODULES_REFUSED", "reason_against"]

_GATES = "it multiplies values that depend on the input, so that no constant holds everywhere"
_RECURRENT = "its gates multiply its states, and products have no rule"
_STEPS = "recurrences have no rule; write the steps with Linear and tanh, or ReLU"
_ATTENTION = "attention multiplies values that depend on the input: no constant holds everywhere"
_GROWS = "its slope grows without bound"
_POWER = "the slope of a power has no bound; of norms, torch.linalg.vector_norm has a rule"
_STEEP = "its slope has no bound near 0"
_PLACES = "it reads places, which are whole numbers; bound the model that follows it"
_PAIR = "it takes two inputs; bound the model that makes them"
_LOSS = "it compares an output with a target; bound the model without the loss"
_RANDOM = "it draws its windows at random"
_JUMPS = "it is piecewise constant: it jumps"

FUNCTIONS_REFUSED = {
    "glu": _GATES, "bilinear": _GATES, "prod": _GATES, "cumprod": _GATES, "outer": _GATES,
    "einsum": "it has no rule; write it with matmul", "lstm": _RECURRENT, "gru": _RECURRENT,
    "lstm_cell": _RECURRENT, "gru_cell": _RECURRENT, "rnn_tanh": _STEPS, "rnn_relu": _STEPS,
    "rnn_tanh_cell": _STEPS, "rnn_relu_cell": _STEPS,
    "scaled_dot_product_attention": _ATTENTION, "multi_head_attention_forward": _ATTENTION,
    "_native_multi_head_attention": _ATTENTION, "_transformer_encoder_layer_fwd": _ATTENTION,
    "cosine_similarity": "it divides by norms of the signal; F.normalize has a rule",
    "pairwise_distance": "write it as torch.linalg.vector_norm(x - y, dim=1), which has a rule",
    "fractional_max_pool2d": _RANDOM, "fractional_max_pool3d": _RANDOM,
    "fractional_max_pool2d_with_indices": _RANDOM, "fractional_max_pool3d_with_indices": _RANDOM,
    "max_unpool1d": _PLACES, "max_unpool2d": _PLACES, "max_unpool3d": _PLACES,
    "embedding": _PLACES, "embedding_bag": _PLACES,
    "exp": _GROWS, "exp2": _GROWS, "expm1": _GROWS, "square": _POWER, "pow": _POWER,
    "__pow__": _POWER, "__rpow__": _POWER, "float_power": _POWER, "sinh": _GROWS, "cosh": _GROWS,
    "tan": _GROWS,
    "sqrt": _STEEP, "rsqrt": _STEEP, "log": _STEEP, "log2": _STEEP, "log10": _STEEP,
    "log1p": _STEEP.replace("0", "-1"), "logit": "its slope has no bound near 0 and 1",
    "sign": _JUMPS, "sgn": _JUMPS, "floor": _JUMPS, "ceil": _JUMPS, "round": _JUMPS,
    "trunc": _JUMPS, "heaviside": _JUMPS, "argmax": _JUMPS, "argmin": _JUMPS,
    "var": _GROWS,
}  # fmt: skip
"""Functions of torch, and why there is no rule for them."""

MODULES_REFUSED = {
    "Bilinear": _GATES, "RNN": _STEPS, "RNNCell": _STEPS,
    **dict.fromkeys(("LSTM", "GRU", "LSTMCell", "GRUCell"), _RECURRENT),
    "MultiheadAttention": _ATTENTION, "Transformer": _ATTENTION,
    "TransformerEncoderLayer": _ATTENTION, "TransformerDecoderLayer": _ATTENTION,
    "TransformerEncoder": _ATTENTION, "TransformerDecoder": _ATTENTION,
    "Embedding": _PLACES, "EmbeddingBag": _PLACES,
    "MaxUnpool1d": _PLACES, "MaxUnpool2d": _PLACES, "MaxUnpool3d": _PLACES,
    "CosineSimilarity": _PAIR, "PairwiseDistance": _PAIR,
    "CrossMapLRN2d": "it is an old form of LocalResponseNorm, which has a rule",
    **dict.fromkeys((
        "AdaptiveLogSoftmaxWithLoss", "BCELoss", "BCEWithLogitsLoss", "CTCLoss",
        "CosineEmbeddingLoss", "CrossEntropyLoss", "GaussianNLLLoss", "HingeEmbeddingLoss",
        "HuberLoss", "KLDivLoss", "L1Loss", "LinearCrossEntropyLoss", "MSELoss",
        "MarginRankingLoss", "MultiLabelMarginLoss", "MultiLabelSoftMarginLoss", "MultiMarginLoss",
        "NLLLoss", "NLLLoss2d", "PoissonNLLLoss", "SmoothL1Loss", "SoftMarginLoss",
        "TripletMarginLoss", "TripletMarginWithDistanceLoss",
    ), _LOSS),
}  # fmt: skip
"""Modules of torch.nn that do not take one batch of real numbers, or whose parts have no rule."""


def reason_against(module: nn.Module | None) -> str | None:
    """Why there is no rule for a module of torch.nn; None for all others."""
    name = type(module).__name__
    known = name in MODULES_REFUSED and type(module) is getattr(nn, name)
    return MODULES_REFUSED[name] if known else None


def _refuse(c: Call, *args: Any, kind: str, **kwargs: Any) -> NoReturn:
    raise UnprovenError(FUNCTIONS_REFUSED[kind])


for _name in FUNCTIONS_REFUSED:
    captures(_name, kind=_name, fallback=True)(_refuse)
