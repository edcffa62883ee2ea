"""What torch does not promise to keep is used in one file."""

import re
from pathlib import Path

import pytest

import taut

ROOT = Path(taut.__file__).parent
PRIVATE = re.compile(r"torch\._[A-Za-z]|torch\.ops\.\w+\._|\._version\b")


@pytest.mark.parametrize("package", ["linalg", "nn", "parametrizations"])
def test_no_module_of_a_package_uses_private_names_of_torch(package):
    assert PRIVATE.search((ROOT / "_torch_private.py").read_text())
    found = {
        path.name: PRIVATE.search(path.read_text()) for path in ROOT.glob(f"{package}/**/*.py")
    }
    assert found
    assert not any(found.values()), found
