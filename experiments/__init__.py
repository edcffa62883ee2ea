"""Commands that measure and write the files in records/; `python -m experiments` lists them."""

from pathlib import Path

# Modules and packages that are commands; the others begin with an underscore.
NAMES = sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*") if p.suffix in ("", ".py"))
