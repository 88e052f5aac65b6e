"""Takes the names of an engine's shared memory away once all its processes have it. Runs in the replica.

vLLM's ranks share memory (`/dev/shm/psm_*`) and semaphores (`/dev/shm/sem.mp-*`) by name. Whoever made them
should remove the names at its end, but Ray ends a replica and its children by SIGKILL, so they stayed behind
after every start. Without a name the memory goes with its last process, however that ends. Only what this
process and those below it have mapped is touched: it is theirs.
"""

from pathlib import Path

from serving.cluster.phases import descendants

FOLDER = Path("/dev/shm")
NAMES = ("psm_", "sem.mp-")


def unlink_names(root_pid: int) -> list[str]:
    """Remove the names of what this process and those below it have mapped; the paths that were removed.

    For when the engine runs: nothing attaches by name any more then.
    """
    mapped = {inode for pid in [root_pid, *descendants(root_pid)] for inode in _mapped_inodes(pid)}
    removed = []
    for path in sorted(FOLDER.iterdir()):
        try:
            if path.name.startswith(NAMES) and path.stat().st_ino in mapped:
                path.unlink()
                removed.append(str(path))
        except OSError:  # gone by itself, or another user's
            continue
    return removed


def _mapped_inodes(pid: int) -> set[int]:
    """By inode: who makes a semaphore has it mapped under a temporary name that is long gone."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError:  # ended meanwhile
        return set()
    fields = (line.split(maxsplit=5) for line in lines)
    return {int(parts[4]) for parts in fields if len(parts) == 6 and parts[5].startswith(f"{FOLDER}/")}
