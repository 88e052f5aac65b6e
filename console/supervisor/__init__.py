"""Process supervision: starts the parts of one copy, restarts what crashes, ends all of it by pid.

Plain Python for Linux; knows nothing of Django. It ends only processes that it started, or that descend
from those, each identified by pid and start time, never by name.
"""
