"""What any exact method must spend on a case, and the time that this machine takes for it.

Example: python -m experiments.floor 256x256x3 4096x512 large-cifar10

The derivation is at the head of `experiments/speed/_floors.py`; rates are measured here and now.
"""

import argparse

import torch

from experiments._record import Record
from experiments._runner import Experiment, option
from experiments.speed._cases import Case, LayerCase, parse_case
from experiments.speed._floors import Rates, floor, measured_rates, plain_flops
from experiments.speed._timing import TimingSettings

CASES = ("128x128x3", "256x256x3", "512x512x3", "1024x1024x3", "4096x512", "large-cifar10")


def work(args: argparse.Namespace, record: Record) -> None:
    cases = list(map(parse_case, args.cases))
    rates = measured_rates(TimingSettings(threads=torch.get_num_threads()))
    print(f"products {rates.product / 1e9:.0f} GFLOP/s, memory {rates.memory / 1e9:.0f} GB/s")
    for case in cases:
        print(line(case, rates))


def line(case: Case, rates: Rates) -> str:
    """Operations, bytes and milliseconds of one case."""
    least = floor(case)
    text = f"{case.name}: {least.flops / 1e9:.3f} GFLOP, {least.bytes / 1e6:.1f} MB, "
    text += f"{1e3 * least.seconds(rates):.2f} ms"
    if isinstance(case, LayerCase):
        text += f"; operations over plain: {least.flops / plain_flops(case):.2f}"
    return text


EXPERIMENT = Experiment(
    "floor",
    __doc__,
    work,
    [option("cases", CASES, "layers and nets, as of experiments.speed", nargs="*")],
    records=False,
)

if __name__ == "__main__":
    EXPERIMENT.main()
