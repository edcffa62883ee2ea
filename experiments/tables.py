"""Write the tables of README.md and docs/ from records/ and from the exported classes.

Example: python -m experiments.tables
"""

import argparse
import inspect
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments import (
    _choosing,
    _comparison,
    _conformal_page,
    _torch_modules,
    anomalies,
    any_net,
    aoc,
    attacks,
    attenuation,
    certificates,
    classify,
    command_line,
    compare,
    distance_fields,
    drift,
    initialisation,
    inverse,
    kinds,
    methods,
    methods_on_mnist,
    monotone,
    one_class,
    optimisers,
    orthonormalisation,
    playground,
    private,
    referee,
    reproduce,
    results,
    speed,
    threats,
    wasserstein,
    wgan,
    zoo,
)
from experiments._record import ROOT, Record
from experiments._runner import Experiment
from experiments._show import markdown
from taut import parametrizations
from taut.recipes import CLAIMS, RECIPES


def work(args: argparse.Namespace, record: Record) -> None:
    for page in PAGES:
        page.write_text(updated(page))


def updated(page: Path) -> str:
    """The text of a page with its tables as they should be."""
    text = page.read_text()
    for name, table in PAGES[page].items():
        pattern = re.compile(rf"(<!-- {name}(?:: [^\n]*)? -->\n).*?(<!-- end -->)", re.DOTALL)
        shown = table()
        text, count = pattern.subn(lambda m, shown=shown: m[1] + shown + m[2], text, count=1)
        assert count, f"a page has lost its mark for {name}"
    return text


def method_list() -> str:
    """The methods, each with the first sentence of its docstring."""
    docs = {name: inspect.getdoc(cls) or "" for name, cls in parametrizations.methods().items()}
    rows = ((f"`{name}`", doc.split("\n")[0].removesuffix(".")) for name, doc in docs.items())
    return markdown(("method", "weight"), rows)


def papers_table() -> str:
    classes = parametrizations.methods().items()
    return markdown(("name", "reference"), ((f"`taut.{n}`", cls.reference) for n, cls in classes))


def recipes_table() -> str:
    rows = ((f"`{name}`", str(RECIPES[name].epochs), claim) for name, claim in CLAIMS.items())
    return markdown(("recipe", "epochs", "where it is from, and what was run"), rows)


PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {
        "comparison": _comparison.comparison_table,
        "results": results.best,
        "methods": method_list,
    },
    ROOT / "docs/anomaly.md": one_class.TABLES,
    ROOT / "docs/any-net.md": {**any_net.TABLES, "referee": referee.referee_table},
    ROOT / "docs/attacks.md": {
        "attacks": attacks.attacks_table,
        "attacked": attacks.attacked_table,
    },
    ROOT / "docs/attenuation.md": {
        "attenuation": attenuation.attenuation_table,
        "jacobian": attenuation.jacobian_table,
    },
    ROOT / "docs/command-line.md": command_line.TABLES,
    ROOT / "docs/choosing-eps.md": _choosing.TABLES,
    ROOT / "docs/index.md": {"comparison": _comparison.comparison_table},
    ROOT / "docs/comparison.md": {"comparison": _comparison.comparison_table},
    ROOT / "docs/compare.md": {
        "help-compare": partial(command_line.experiment_help, "compare"),
        **compare.TABLES,
    },
    ROOT / "docs/convolutions.md": {"initialisation": initialisation.initialisation_table},
    ROOT / "docs/private.md": private.TABLES,
    ROOT / "docs/distance-fields.md": {"distance-fields": distance_fields.distances_table},
    ROOT / "docs/monotone.md": {"monotone": monotone.monotone_table},
    ROOT / "docs/conformal.md": _conformal_page.TABLES,
    ROOT / "docs/playground.md": {"playground": playground.playground_table},
    ROOT / "docs/recipes.md": {"recipes": recipes_table},
    ROOT / "docs/reproduce.md": {
        "reproduced": reproduce.recorded_tables,
        **command_line.experiment_tables("reproduce"),
    },
    ROOT / "docs/methods.md": {
        "papers": papers_table,
        "anomalies": anomalies.anomalies,
        **methods.TABLES,
        **methods_on_mnist.TABLES,
    },
    ROOT / "docs/certificates.md": certificates.TABLES,
    ROOT / "docs/inverse.md": inverse.TABLES,
    ROOT / "docs/optimisers.md": {"optimisers": optimisers.optimisers_table},
    ROOT / "docs/results.md": results.TABLES,
    ROOT / "docs/speed.md": {
        **speed.TABLES,
        "kinds": kinds.kinds_table,
        "aoc": aoc.aoc_table,
        "arguments": aoc.arguments_table,
        "ways": orthonormalisation.ways_table,
        "dense": orthonormalisation.dense_table,
        **command_line.experiment_tables("speed"),
    },
    ROOT / "docs/threats.md": threats.TABLES,
    ROOT / "docs/torch-modules.md": _torch_modules.TABLES,
    ROOT / "docs/weights.md": {"retraction": classify.retraction},
    ROOT / "docs/zoo.md": {"zoo": zoo.zoo_table},
    ROOT / "docs/drift.md": drift.TABLES,
    ROOT / "docs/wasserstein.md": {
        **wasserstein.TABLES,
        "table4": reproduce.critics_table,
        "wgan": wgan.learning_table,
    },
}

EXPERIMENT = Experiment("tables", __doc__, work, threads=1, records=False)

if __name__ == "__main__":
    EXPERIMENT.main()
