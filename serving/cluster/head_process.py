"""Runs Ray's own command line with one change: no Ray client server is started.

It would be one more process of 90 MB and one more open port that nothing of ours uses; Ray offers no switch
for it once its dependencies are installed. Usage: like `ray`.
"""

import ray.scripts.scripts as scripts


def no_ray_client() -> str:
    """Stands in for Ray's `get_ray_client_dependency_error`: a reason means no client server."""
    return "the Ray client server is not used"


if __name__ == "__main__":
    scripts.get_ray_client_dependency_error = no_ray_client
    scripts.main()
