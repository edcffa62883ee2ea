"""The packages of the extra `wasserstein`, imported where they are needed."""

import importlib
from types import ModuleType


def extra(module: str, purpose: str, otherwise: str) -> ModuleType:
    """Import a module, or say in one sentence what needs it and how to do without."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs `{module.split('.')[0]}`: install the extra `wasserstein` "
            f"(pip install 'taut[wasserstein]'), or {otherwise}."
        ) from error
