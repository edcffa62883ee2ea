"""What any exact method must spend on a case, and the time that this machine takes for it.

    python -m benchmarks.floor 256x256x3 4096x512 large-cifar10

The derivation is at the head of `taut/benchmark/floors.py`; rates are measured here and now.
"""

import argparse

import torch

from taut.benchmark import (
    Case,
    LayerCase,
    Rates,
    Settings,
    floor,
    measured_rates,
    parse_case,
    plain_flops,
)

CASES = ("128x128x3", "256x256x3", "512x512x3", "1024x1024x3", "4096x512", "large-cifar10")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor", description=__doc__)
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rates = measured_rates(Settings(threads=args.threads))
    print(f"products {rates.product / 1e9:.0f} GFLOP/s, memory {rates.memory / 1e9:.0f} GB/s")
    for name in args.cases:
        print(line(parse_case(name), rates))


def line(case: Case, rates: Rates) -> str:
    """Operations, bytes and milliseconds of one case."""
    least = floor(case)
    text = f"{case.name}: {least.flops / 1e9:.3f} GFLOP, {least.bytes / 1e6:.1f} MB, "
    text += f"{1e3 * least.seconds(rates):.2f} ms"
    if isinstance(case, LayerCase):
        text += f"; operations over plain: {least.flops / plain_flops(case):.2f}"
    return text


if __name__ == "__main__":
    main()
