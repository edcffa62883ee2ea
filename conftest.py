"""What every test and doctest finds in its namespace, and a seed for each."""

import inspect

import jaxtyping
import pytest
import torch

import type_checks

# One replaces what it is made of, the other registers a device for good.
collect_ignore = ["tests/type_checks.py", "tests/fake_device.py"]
# The hook that `--jaxtyping-packages` has put on imports looks it up here.
jaxtyping.jaxtyped = type_checks.jaxtyped
# Tests run side by side; threads of one would wait for cores that another holds.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _namespace(doctest_namespace: dict) -> None:
    import taut  # after jaxtyping has hooked the imports of the package

    torch.manual_seed(0)
    doctest_namespace.update(torch=torch, taut=taut)


@pytest.fixture(autouse=True)
def _drawn_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the kernels of fresh layers: a kernel that is the identity hides mirrored axes."""
    import taut

    if isinstance(request.node, pytest.Function) and "defaults" not in request.keywords:
        for method in (taut.BCOP, taut.SCFac):
            defaults = inspect.unwrap(method.__init__).__kwdefaults__
            monkeypatch.setitem(defaults, "init", "uniform")
