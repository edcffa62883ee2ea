"""Tables of docs/choosing-eps.md: l2 norms of visible changes, and the measured fronts."""

import math

from experiments._record import RECORDS, read
from experiments._show import markdown
from experiments.figures import accuracies

_SIZES = {
    "MNIST, 1 x 28 x 28": 28 * 28,
    "CIFAR-10, 3 x 32 x 32": 3 * 32 * 32,
    "Tiny-ImageNet, 3 x 64 x 64": 3 * 64 * 64,
    "ImageNet, 3 x 224 x 224": 3 * 224 * 224,
}
_STEPS = (1, 4, 8)


def sizes_table() -> str:
    """The l2 norm of a change of each value by so many steps of 8-bit pixels."""
    header = ("images", *(f"every value changed by {n}/255" for n in _STEPS), "36/255, per value")
    rows = []
    for name, count in _SIZES.items():
        norms = (f"{n / 255 * math.sqrt(count):.2f}" for n in _STEPS)
        rows.append((name, *norms, f"{36 / math.sqrt(count):.2f}/255"))
    return markdown(header, rows)


def fronts_table() -> str:
    """Every setting of every front."""
    rows = []
    radii: list[float] = []
    for path in sorted(RECORDS.glob("front-*.json")):
        content = read(path)
        for point in content["points"]:
            radii, values = accuracies(point)
            setting = (f"{point['offset']:g}", f"{point['temperature']:g}", str(point["epochs"]))
            net = f"{content['dataset']}, {content['architecture']}"
            rows.append((net, *setting, *(f"{value:.2f}" for value in values)))
    proved = (f"at {radius:g}" for radius in radii[1:])
    return markdown(("net", "offset", "temperature", "epochs", "clean", *proved), rows)


TABLES = {"eps-sizes": sizes_table, "fronts": fronts_table}
