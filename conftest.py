"""What every test and doctest finds in its namespace, and a seed for each."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _namespace(doctest_namespace: dict) -> None:
    import taut  # after jaxtyping has hooked the imports of the package

    torch.manual_seed(0)
    doctest_namespace.update(torch=torch, taut=taut)
