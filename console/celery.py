"""The Celery application and its beat. Tasks live in workers/; the console knows them by name only."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "console.settings")

app = Celery("raydeck")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.imports = ("workers.tasks",)
app.conf.beat_schedule = {
    # `expires`: a tick that found no worker is worthless once the next one is due.
    "reconcile": {"task": "workers.reconcile", "schedule": 5.0, "options": {"expires": 4.5}},
    "slo": {"task": "workers.slo", "schedule": 30.0, "options": {"expires": 25}},
    "gateway-health": {"task": "workers.gateway_health", "schedule": 30.0, "options": {"expires": 25}},
    "webhooks": {"task": "workers.webhooks", "schedule": 10.0, "options": {"expires": 9}},
    "accounting": {"task": "workers.accounting", "schedule": 30.0, "options": {"expires": 29.0}},
    "limits": {"task": "workers.limits", "schedule": 5.0, "options": {"expires": 4.5}},
    "retention": {"task": "workers.retention", "schedule": 3600.0, "options": {"expires": 3000}},
}
