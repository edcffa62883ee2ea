"""Where taut stands beside its neighbours, as README.md shows it."""

from experiments._record import RECORDS, read
from experiments._show import markdown

_COLUMNS = ("", "guarantee", "arithmetic", "cost of inference", "training step", "verified by")
_LINKS = {
    "deel-torchlip": "https://github.com/deel-ai/deel-torchlip",
    "orthogonium": "https://github.com/deel-ai/orthogonium",
    "randomized smoothing": "https://arxiv.org/abs/1902.02918",
    "auto_LiRPA": "https://github.com/Verified-Intelligence/auto_LiRPA",
}
_UNSOUND = "https://arxiv.org/abs/2207.07209"  # Voracek, Hein (2023)


_ROWS = (
    (
        "taut",
        "l2 radius of each prediction, proved from the weights",
        "float64 or float32, rounding included",
        "one pass, {frozen:.2f} x plain",
        "{taut:.1f} x plain",
        "`taut verify`; a stand-alone verifier in numpy",
    ),
    (
        "deel-torchlip",
        "1-Lipschitz layers; gradients may shrink",
        "real numbers",
        "one pass, plain layers once exported",
        "{deel-torchlip:.1f} x plain",
        "nothing of its own; `taut.lipschitz_bound` reads it",
    ),
    (
        "orthogonium",
        "1-Lipschitz, orthogonal layers",
        "real numbers",
        "one pass, plain layers once exported",
        "{orthogonium:.1f} x plain",
        "nothing of its own; `taut.lipschitz_bound` reads it",
    ),
    (
        "randomized smoothing",
        "l2 radius of any classifier, wrong with probability at most 0.001",
        f"real numbers ([unsound in floats]({_UNSOUND}) unless adapted)",
        "100,000 noisy passes an image",
        "plain, with noise",
        "sampling again",
    ),
    (
        "auto_LiRPA",
        "output bounds of any net on a ball of given radius",
        "floats, no claim about rounding",
        "bound propagation for each image and radius",
        "not measured",
        "nothing of its own",
    ),
)
"""Times over plain torch are filled in by the name of the contender; `frozen` is the inference."""


def comparison_table() -> str:
    """Guarantees and costs; times are those of CIFAR-10 Large in records/speed.json."""
    steps = {
        row["contender"]: row
        for row in read(RECORDS / "speed.json")["rows"]["steps"]
        if row["case"] == "large-cifar10b128"
    }
    ratios = {name: row["train_ratio"] for name, row in steps.items()}
    ratios["frozen"] = steps["taut"]["frozen_ratio"]
    linked = (
        (
            f"[{name}]({_LINKS[name]})" if name in _LINKS else f"**{name}**",
            *(cell.format_map(ratios) for cell in cells),
        )
        for name, *cells in _ROWS
    )
    return markdown(_COLUMNS, linked)
