"""`taut attack`."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import tyro

from taut.attacks import ATTACKS, Attacked, AttackTrial, Target, methods, plan, run_trial, strongest
from taut.certification import Certification, above, certify
from taut.cli.model_file import NO_FILE, ModelFile, open_model
from taut.cli.shared import (
    Eps,
    OptionalFolder,
    OptionalNumber,
    OptionalRun,
    percent,
    progress,
    show_table,
)
from taut.training import Device

if TYPE_CHECKING:
    Method = str
else:
    Method = tyro.extras.literal_type_from_choices([*methods(), "paper", "all"])
_Limit = Annotated[tuple[str, ...], tyro.conf.arg(metavar="N|METHOD=N ...", help_behavior_hint="")]


def attack(
    run: OptionalRun = None,
    *,
    plain: Annotated[ModelFile, tyro.conf.OmitArgPrefixes] = NO_FILE,
    output: OptionalFolder = None,
    method: tuple[Method, ...] = ("pgd",),
    eps: Eps = (),
    limit: _Limit = (),
    steps: OptionalNumber = None,
    data_dir: OptionalFolder = None,
    device: Device = "auto",
) -> None:
    """Attack a model: search for misclassified images near test images.

    Saves each batch to attacks.json in the run folder; the same command continues a stopped attack.
    Compares the results with the certificate: exit code 1 if an attack succeeds within a certified
    radius.

    Example: taut attack runs/demo --method pgd fgsm --eps 0.3 --limit 200

    Example: taut attack runs/demo --method paper autoattack --limit autoattack=200

    Example: taut attack --model net.py:make --weights net.pt --input-shape 3,32,32 --data test.npz

    Args:
        run: the run folder.
        plain: a model in a file; it needs data.
        output: file for the results of a model in a file, such as attacks.json; by default they are
            not saved.
        method: the attacks to run; `paper` is the protocol of Li et al. (2019): PGD with steps of
            0.01 and FGSM on all test images, boundary and pointwise on 100; `all` is every method.
        eps: l2 radii for pixels in [0, 1]; by default those of the recipe.
        limit: number of test images to attack, the first ones: for all methods (200) or for one
            (autoattack=50); by default 1000, and 100 for slow methods.
        steps: iterations of each method; fgsm has none, so name other methods.
        data_dir: where the data set of the run is now, if it has moved.
        device: auto uses a GPU if there is one.
    """
    trials = plan(method, limit, {} if steps is None else {"steps": steps})
    if run is not None and output is not None:
        raise ValueError(
            "`output` is for a model in a file; a run saves its attacks in its folder."
        )
    opened = open_model(run, plain, device, data_dir)
    radii = opened.radii(eps)
    everything = range(len(opened.test))
    images, labels = opened.head(max(trial.size(everything) for trial in trials))
    proved = certify(opened.model, images, labels, eps=radii)
    target = Target(opened.model, images, proved)
    path = output if run is None else run / ATTACKS
    with nullcontext(path) if path is not None else TemporaryDirectory() as place:
        kept = Path(place, ATTACKS) if path is None else path
        results = _run(trials, target, radii, kept, resumes=path is not None)
    sizes = {name: len(by_eps[radii[0]]) for name, by_eps in results.items()}
    for i, size in enumerate(sorted(set(sizes.values()), reverse=True)):
        print(end="\n" if i else "")
        chosen = {name: by_eps for name, by_eps in results.items() if sizes[name] == size}
        show_table(opened.title(size), ("eps", *radii), _rows(chosen, proved, radii, size))


def _run(
    trials: Sequence[AttackTrial],
    target: Target,
    radii: Sequence[str],
    path: Path,
    *,
    resumes: bool,
) -> dict[str, dict[str, Attacked]]:
    """The results by name of the trial and eps."""
    results: dict[str, dict[str, Attacked]] = {}
    try:
        for trial in trials:
            by_eps = results.setdefault(trial.name, {})
            for text in radii:
                with progress(f"{trial.name} {text}", trial.size(target.images)) as tell:
                    by_eps[text] = run_trial(trial, target, text, path, tell)
    except KeyboardInterrupt:
        words = f"; the batches done are kept in {path}, and the same command goes on"
        raise KeyboardInterrupt(f"interrupted{words if resumes else ''}.") from None
    return results


def _rows(
    results: Mapping[str, Mapping[str, Attacked]],
    proved: Certification,
    radii: Sequence[str],
    size: int,
) -> list[tuple[str, ...]]:
    """Shares of the first `size` images: clean, proved, and left correct by each attack."""
    clean = (proved.predictions == proved.labels)[:size].double().mean().item()
    certified = [above(proved.radius[:size], eps).double().mean().item() for eps in radii]
    best = [strongest({name: of[eps] for name, of in results.items()}, eps) for eps in radii]
    rows = [("clean", *(percent(clean) for _ in radii)), ("certified", *map(percent, certified))]
    rows += [(name, *(percent(b.accuracies[name]) for b in best)) for name in results]
    if len(results) > 1:
        rows.append(("strongest", *(percent(b.accuracy) for b in best)))
    counts = [sum(int(of[eps].float32_only.sum()) for of in results.values()) for eps in radii]
    if any(counts):
        rows.append(("float32 only", *map(str, counts)))
    return rows
