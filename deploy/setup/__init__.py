"""Sets up a clone: virtual environment, pinned packages, engine, and what the tests need of the system.

Standard library only, since it runs before anything is installed.
"""
