"""The Celery tasks: each takes its turn and calls one function. Names are what the console sends."""

from celery import shared_task


@shared_task(name="workers.reconcile", ignore_result=True)
def reconcile() -> None:
    """Bring the cluster to what the database wants and write down what is there."""
    from workers.reconcile import reconcile_for_a_while

    reconcile_for_a_while()


@shared_task(name="workers.retention", ignore_result=True)
def retention() -> None:
    """Roll samples up and drop what is past its retention."""
    from workers.retention import apply_retention

    apply_retention()


@shared_task(name="workers.accounting", ignore_result=True)
def accounting() -> None:
    """Share out what replicas have cost among requests and idle time."""
    from workers.accounting import share_out

    share_out()


@shared_task(name="workers.exact_plans", ignore_result=True)
def exact_plans() -> None:
    """Build what vLLM's own classes say of the models whose exact plan was asked for."""
    from workers.exact_plans import run_exact_plans

    run_exact_plans()


@shared_task(name="workers.slo", ignore_result=True)
def slo() -> None:
    """Judge every deployment by its objectives; open and resolve alerts."""
    from workers.slo import evaluate_in_turn

    evaluate_in_turn()


@shared_task(name="workers.gateway_health", ignore_result=True)
def gateway_health() -> None:
    """Note how a gateway's usage records fare."""
    from workers.gateway_health import note_gateway_health

    note_gateway_health()


@shared_task(name="workers.webhooks", ignore_result=True)
def webhooks() -> None:
    """Send the messages that are due."""
    from workers.webhooks import deliver_in_turn

    deliver_in_turn()


@shared_task(name="workers.limits", ignore_result=True)
def limits() -> None:
    """Tell the gateway what has been spent, and note what it says of its limits."""
    from workers.limits import publish_limits

    publish_limits()
