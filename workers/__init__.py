"""Celery tasks and the collector: they read what operators want, act on the cluster, write what they saw."""
