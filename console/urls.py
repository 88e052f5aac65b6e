"""Every address of the console. Each subject's patterns lie beside its views."""

import importlib.util

from django.urls import include, path

PAGES = ("session", "overview", "deployments", "models", "playground", "keys")

urlpatterns = [
    path("", include(f"console.views.{name}"))
    for name in PAGES
    if importlib.util.find_spec(f"console.views.{name}")
]
if importlib.util.find_spec("console.api.health"):
    from console.api import api
    from console.api.docs import docs
    from console.api.health import healthz, readyz

    urlpatterns += [
        path("api/v1/", api.urls),
        path("api/docs/", docs, name="api-docs"),
        path("healthz", healthz, name="healthz"),
        path("readyz", readyz, name="readyz"),
    ]
