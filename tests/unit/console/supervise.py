"""Runs a supervisor over the small parts described in a JSON file; the tests start and signal this.

`python -m tests.unit.console.supervise FILE` with {"folder", "stop_order", "parts": [{"name", "argv", …}]}.
"""

import json
import sys
from pathlib import Path

from console.supervisor.part import Part
from console.supervisor.record import AlreadyRunning
from console.supervisor.startup import supervised_copy
from console.supervisor.voice import Voice


def main(description: Path) -> int:
    """Supervise until a signal says stop."""
    given = json.loads(description.read_text())
    folder = Path(given["folder"])
    voice = Voice()
    try:
        with supervised_copy(
            run_folder=folder,
            logs=folder / "logs",
            voice=voice,
            stop_order=given["stop_order"],
            orphan_grace_s=1.0,
            on_ready=lambda name, seconds: voice.say(f"{name} ready"),
        ) as supervisor:
            for part in given["parts"]:
                part["waits_for"] = tuple(part.get("waits_for", ()))
                supervisor.add(Part(cwd=folder, **part))
            supervisor.run_until(lambda: False)
    except AlreadyRunning as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
