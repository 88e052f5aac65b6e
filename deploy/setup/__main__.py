"""`python3 -m deploy.setup run|test`: bring this clone to the state that make needs.

Must stay readable to old Pythons as far as the version check, so that they get a sentence, not a traceback.
"""

import sys

OLDEST_PYTHON = (3, 11)

if sys.version_info < OLDEST_PYTHON:
    sys.exit(
        "[setup] Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ". Install it (Debian: "
        "apt-get install python3.11 python3.11-venv), or name another: make run PYTHON=/path/to/python3.11"
    )

from deploy.setup.plan import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
