"""`python -m vdi` is the `vdi` command, for whoever has no console scripts on the PATH."""

import sys

from vdi.cli.main import main

sys.exit(main())
