"""Tell tones, chirps and bursts of noise apart by 1-D convolutions, each answer with its radius.

python examples/classify_audio.py --steps 50
"""

import argparse
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import taut
from taut.certification import Certification

EPS = 5.0  # in l2; a signal has a norm of about 45: this is noise at -19 dB


def signals(count: int) -> tuple[Tensor, Tensor]:
    """A second at 16 kHz each, `(count, 1, 16000)`: steady, rising or falling tone, or a burst."""
    labels, (place, phase) = torch.randint(4, (count, 1)), torch.rand(2, count, 1)
    noise, background = torch.randn(2, count, 16000)
    t = torch.linspace(0, 1, 16000)
    slope = torch.tensor([0.0, 800.0, -800.0, 0.0])[labels]  # Hz per second
    tone = torch.sin(2 * math.pi * ((600 + 400 * place) * t + slope * t * (t - 1) / 2 + phase))
    burst = noise * ((t - 0.2 - 0.6 * place).abs() < 0.2)
    return (0.5 * torch.where(labels == 3, burst, tone) + 0.1 * background)[:, None], labels[:, 0]


def main(arguments: Sequence[str] | None = None) -> Certification:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50, help="of the optimiser")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    model = nn.Sequential(
        *(taut.nn.Conv1d(1, 16, 32, stride=5), taut.nn.MaxMin()),
        *(taut.nn.Conv1d(16, 32, 9, stride=4), taut.nn.MaxMin()),
        *(taut.nn.Conv1d(32, 32, 3, dilation=2), taut.nn.MaxMin()),
        *(taut.nn.Conv1d(32, 32, 3, dilation=4), taut.nn.MaxMin()),
        *(taut.nn.ScaledAdaptiveAvgPool1d(8), nn.Flatten(), taut.nn.Linear(32 * 8, 4)),
    )
    print(*(m for m in model if isinstance(m, taut.nn.Conv1d)), sep="\n")
    loss = taut.losses.OffsetCrossEntropy(offset=math.sqrt(2) * EPS, temperature=2.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(1, options.steps + 1):
        x, labels = signals(32)
        optimiser.zero_grad()
        value = loss(model(x), labels)
        value.backward()
        optimiser.step()
        print(f"\rstep {step} of {options.steps}: loss {value.item():.3f}", end="", flush=True)
    result = taut.certify(model.eval(), *signals(200), eps=(EPS / 2, EPS, 2 * EPS))
    print(f"\n{result}")
    return result


if __name__ == "__main__":
    main()
