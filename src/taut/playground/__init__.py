"""The playground of a net: one HTML page that runs, certifies and attacks it, without a server."""

from taut.playground._lower import lower, lowered
from taut.playground._page import Contrast, PlaygroundInputs, write_playground
from taut.playground._plain import plain_net
from taut.playground._steps import Steps

__all__ = [
    "Contrast",
    "PlaygroundInputs",
    "Steps",
    "lower",
    "lowered",
    "plain_net",
    "write_playground",
]
