"""The overview page and the fragments of the frame. Reads through console/states.py; writes nothing."""

from __future__ import annotations

import time

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path

from console import shell
from console.auth import require


@require("viewer")
def overview(request: HttpRequest) -> HttpResponse:
    """The fleet at a glance; the set-up steps while there is no deployment."""
    return render(request, "overview.html", {})


@require("viewer")
def part_cluster(request: HttpRequest) -> HttpResponse:
    """The cluster's box in the sidebar."""
    return render(request, "partials/cluster.html", {"cluster": shell.cluster_summary(time.time())})


@require("viewer")
def part_cluster_problem(request: HttpRequest) -> HttpResponse:
    """The banner about the cluster, empty when all is well."""
    return render(request, "partials/cluster_problem.html", {"cluster": shell.cluster_summary(time.time())})


urlpatterns = [
    path("", overview, name="overview"),
    path("parts/cluster/", part_cluster, name="part-cluster"),
    path("parts/cluster-problem/", part_cluster_problem, name="part-cluster-problem"),
]
