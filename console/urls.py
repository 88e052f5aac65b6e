"""Every address of the console. Each subject's patterns lie beside its views."""

from django.urls import include, path

from console.api import api
from console.api.docs import docs
from console.api.health import healthz, readyz
from console.api.prometheus import metrics

PAGES = (
    "session",
    "overview",
    "planning",
    "deployments",
    "models",
    "playground",
    "accelerators",
    "keys",
    "alerts",
    "cost",
    "request_log",
    "routing",
)

urlpatterns = [
    *(path("", include(f"console.views.{name}")) for name in PAGES),
    path("api/docs/", docs, name="api-docs"),
    path("api/v1/", api.urls),
    path("metrics", metrics, name="prometheus"),
    path("healthz", healthz, name="healthz"),
    path("readyz", readyz, name="readyz"),
]
