"""What the comparison published, for CIFAR-10."""

from typing import NamedTuple

SOURCE = (
    "Prach, Brau, Buttazzo, Lampert (2024), *1-Lipschitz Layers Compared: Memory, Speed, and "
    "Certifiable Robustness*, CVPR, arXiv:2311.16833, table 2"
)


class PublishedAccuracy(NamedTuple):
    """In percent, after 24 hours on one A100; of the best rate of a random search."""

    clean: float
    certified: float  # at 36/255


# By method, then by size; LOT at L did not fit into the memory.
PUBLISHED: dict[str, dict[str, PublishedAccuracy]] = {
    method: {
        size: PublishedAccuracy(*values)
        for size, values in zip(("XS", "S", "M", "L"), sizes, strict=False)
    }
    for method, *sizes in (
        ("AOL", (71.7, 59.1), (73.6, 60.8), (73.4, 61.0), (73.7, 61.5)),
        ("BCOP", (71.7, 58.5), (73.1, 59.3), (74.0, 60.5), (74.6, 61.5)),
        ("CPL", (74.9, 62.5), (76.1, 64.2), (76.6, 65.1), (76.8, 65.2)),
        ("Cayley", (73.1, 59.5), (74.2, 61.1), (74.4, 61.0), (73.6, 60.1)),
        ("LOT", (75.5, 63.4), (76.6, 64.6), (72.0, 58.7)),
        ("SLL", (73.7, 61.0), (74.2, 62.0), (75.3, 62.8), (74.3, 62.3)),
        ("SOC", (74.1, 61.3), (75.0, 62.9), (76.9, 66.3), (76.9, 65.4)),
    )
}

# Layers here by the name of the paper; its CPL and SLL are residual layers.
NAMES = {
    "AOL": "AOL",
    "BCOP": "BCOP",
    "PotentialResidual2d, CPL": "CPL",
    "Cayley": "Cayley",
    "LOT": "LOT",
    "PotentialResidual2d, SLL": "SLL",
    "SOC2d": "SOC",
}
