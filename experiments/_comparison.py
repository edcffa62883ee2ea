"""What taut and its neighbours give for a certificate; docs/comparison.md has the sources."""

from experiments._record import RECORDS, read
from experiments._show import markdown

_NET = "large-cifar10b128"
_HEADER = (
    "",
    "taut",
    "deel-torchlip 1.0.5",
    "orthogonium 0.0.4",
    "randomized smoothing",
    "auto_LiRPA",
)


def comparison_table() -> str:
    """Five properties, one tool a column; times are those of records/speed.json."""
    rows = read(RECORDS / "speed.json")["rows"]["steps"]
    timed = {row["contender"]: row for row in rows if row["case"] == _NET}
    step = {name: f"{row['train_ratio']:.2f}" for name, row in timed.items()}
    evaluation = {name: f"{row['eval_ratio']:.2f}" for name, row in timed.items()}
    frozen = f"{timed['taut']['frozen_ratio']:.2f}"
    peer = "no certificate files; `taut.lipschitz_bound` bounds its layers"
    return markdown(
        _HEADER,
        (
            (
                "**guarantee**",
                "a radius for each input, from a Lipschitz constant proved from the weights",
                "a constant of 1 by construction of each layer",
                "a constant of 1 by construction; orthogonal convolutions",
                "a radius that holds with a chosen probability (99.9 % in the paper)",
                "bounds of the outputs for each input and radius, for general networks",
            ),
            (
                "**arithmetic**",
                "float64 or float32 with every rounding counted, or real numbers",
                "real numbers",
                "real numbers",
                "real numbers; float needs a modified sampler",
                "real numbers, computed in float",
            ),
            (
                "**cost of inference**",
                f"one forward pass, {frozen} times the plain net (frozen)",
                f"one forward pass, {evaluation['deel-torchlip']} times",
                f"one forward pass, {evaluation['orthogonium']} times",
                "about 100,000 forward passes for each certificate",
                "a propagation of bounds for each input",
            ),
            (
                "**training step**",
                f"{step['taut']} times the plain net",
                f"{step['deel-torchlip']} times",
                f"{step['orthogonium']} times",
                "a plain step on noisy images",
                "a plain step; certified training propagates bounds in each step",
            ),
            (
                "**what verifies it**",
                "`taut verify`, and a stand-alone verifier of one file that needs only numpy",
                peer,
                peer,
                "sampling again",
                "computing the bounds again; α,β-CROWN makes them complete",
            ),
        ),
    )
