"""The Django project and its one app: pages, API, live updates. Imports no ray, vllm or torch."""

from console.celery import app as celery_app

__all__ = ["celery_app"]
