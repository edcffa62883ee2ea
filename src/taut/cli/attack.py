"""`taut attack`."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from taut.attacks import attack as attack_model
from taut.certification import above, certify
from taut.cli.shared import (
    Device,
    Eps,
    Opened,
    RunFolder,
    check_eps,
    open_run,
    percent,
    progress,
    show_table,
)

_BATCH = 128


def attack(
    run: RunFolder,
    *,
    method: Literal["pgd", "fgsm", "ddn"] = "pgd",
    eps: Eps = (),
    limit: int = 1000,
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None,
    device: Device = "auto",
) -> None:
    """Look for misclassified images near test images, and hold the result against the proof.

    Fails (exit code 1) if an attack breaks an image inside its certified radius.

    Example: taut attack runs/demo --method pgd --eps 0.3 --limit 200

    Args:
        run: the run folder.
        method: the attack to run.
        eps: l2 radii, pixels in [0, 1]; those of the recipe if not given.
        limit: attack the first so many test images.
        steps: iterations; 200 of pgd and 100 of ddn if not given, fgsm takes none.
        device: auto takes a GPU if there is one.
    """
    opened = open_run(run, device)
    radii = check_eps(eps, opened.run)
    images, labels = opened.head(limit)
    proved = certify(opened.model, images, labels, eps=radii)
    options = {} if steps is None else {"steps": steps}
    rows = []
    with progress(method, len(radii) * len(labels)) as tell:
        for i, text in enumerate(radii):
            done = i * len(labels)
            broken = _broken(opened, (images, labels), (text, method, options), tell, done)
            _hold_against(proved.radius, broken, text)
            shares = (proved.clean_accuracy, proved.certified_accuracy[text])
            attacked = 1 - broken.double().mean().item()
            rows.append((text, *map(percent, (*shares, attacked))))
    title = f"{opened.title(len(labels))}, {method}"
    show_table(title, ("eps", "clean", "certified", "attacked"), rows)


def _broken(
    opened: Opened,
    part: tuple[Tensor, Tensor],
    protocol: tuple[str, str, dict[str, int]],
    tell: Callable[[int], None],
    done: int,
) -> Tensor:
    """Which images the attack broke; batch by batch, so that the progress bar moves."""
    (images, labels), (eps, method, options) = part, protocol
    found = []
    for start in range(0, len(labels), _BATCH):
        batch = slice(start, start + _BATCH)
        result = attack_model(opened.model, images[batch], labels[batch], eps, method, **options)
        found.append(result.success.cpu())
        tell(done + min(start + _BATCH, len(labels)))
    return torch.cat(found)


def _hold_against(radius: Tensor, broken: Tensor, eps: str) -> None:
    """Fail if an image certified at eps was broken within eps."""
    refuted = (broken & above(radius, eps)).nonzero().flatten().tolist()
    if refuted:
        raise RuntimeError(
            f"A certificate is broken: test image {refuted[0]} ({len(refuted)} in all) is "
            f"certified at eps {eps}, and the attack changed its prediction within eps. "
            "Please report this as a bug."
        )
