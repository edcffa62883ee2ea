"""`python -m taut` is `taut`."""

import sys

from taut.cli import main

sys.exit(main())
