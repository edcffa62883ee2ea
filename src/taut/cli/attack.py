"""`taut attack`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import tyro

from taut.attacks import (
    ATTACKS,
    Attacked,
    Target,
    Trial,
    plan,
    run_trial,
    strongest,
)
from taut.certification import Certification, above, certify
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

Method = Literal[
    "pgd",
    "fgsm",
    "ddn",
    "deepfool",
    "carlini-wagner",
    "boundary",
    "pointwise",
    "autoattack",
    "paper",
    "all",
]
_Limit = Annotated[tuple[str, ...], tyro.conf.arg(metavar="N|METHOD=N ...", help_behavior_hint="")]


def attack(
    run: RunFolder,
    *,
    method: tuple[Method, ...] = ("pgd",),
    eps: Eps = (),
    limit: _Limit = (),
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None,
    device: Device = "auto",
) -> None:
    """Look for misclassified images near test images, and hold the result against the proof.

    Keeps each batch in attacks.json of the run folder: stopped, it goes on where it was, and what
    is there is not run again. Fails (exit code 1) if an attack breaks an image inside its certified
    radius.

    Example: taut attack runs/demo --method pgd fgsm --eps 0.3 --limit 200

    Example: taut attack runs/demo --method paper autoattack --limit autoattack=200

    Args:
        run: the run folder.
        method: the attacks to run; paper is the protocol of the founding paper (PGD with steps of
            0.01 and FGSM on all test images, boundary and pointwise on 100), all is every method.
        eps: l2 radii, pixels in [0, 1]; those of the recipe if not given.
        limit: attack the first so many test images, with all methods (200) or with one
            (autoattack=50). If not given 1000, of boundary and pointwise 100.
        steps: iterations of each method; fgsm has none, so name others.
        device: auto takes a GPU if there is one.
    """
    options = {} if steps is None else {"steps": steps}
    trials = plan(method, limit, options)
    opened = open_run(run, device)
    radii = check_eps(eps, opened.run)
    everything = range(len(opened.test))
    images, labels = opened.head(max(trial.size(everything) for trial in trials))
    proved = certify(opened.model, images, labels, eps=radii)
    target = Target(opened.model, images, proved)
    try:
        results = {trial.name: _run(trial, target, radii, opened) for trial in trials}
    except KeyboardInterrupt:
        kept = opened.run.path / ATTACKS
        raise KeyboardInterrupt(
            f"interrupted; the batches done are kept in {kept}, and the same command goes on."
        ) from None
    sizes = sorted({_size(found) for found in results.values()}, reverse=True)
    for size in sizes:
        print(end="" if size == sizes[0] else "\n")
        chosen = {name: found for name, found in results.items() if _size(found) == size}
        show_table(opened.title(size), ("eps", *radii), _rows(chosen, proved, radii, size))


def _run(trial: Trial, target: Target, radii: Sequence[str], opened: Opened) -> dict[str, Attacked]:
    """What one attack came to, by eps."""
    found: dict[str, Attacked] = {}
    for eps in radii:
        with progress(f"{trial.name} {eps}", trial.size(target.images)) as tell:
            found[eps] = run_trial(trial, target, eps, opened.run.path / ATTACKS, tell)
    return found


def _size(found: Mapping[str, Attacked]) -> int:
    return len(next(iter(found.values())))


def _rows(
    results: Mapping[str, Mapping[str, Attacked]],
    proved: Certification,
    radii: Sequence[str],
    size: int,
) -> list[tuple[str, ...]]:
    """Shares of the first `size` images: clean, proved, and left correct by each attack."""
    clean = (proved.predictions == proved.labels)[:size].double().mean().item()
    certified = [above(proved.radius[:size], eps).double().mean().item() for eps in radii]
    best = [strongest({name: found[eps] for name, found in results.items()}, eps) for eps in radii]
    rows = [("clean", *(percent(clean) for _ in radii)), ("certified", *map(percent, certified))]
    rows += [(name, *(percent(b.accuracies[name]) for b in best)) for name in results]
    if len(results) > 1:
        rows.append(("strongest", *(percent(b.accuracy) for b in best)))
    if any(bool(a.float32_only.any()) for found in results.values() for a in found.values()):
        counts = [sum(int(f[eps].float32_only.sum()) for f in results.values()) for eps in radii]
        rows.append(("float32 only", *map(str, counts)))
    return rows
