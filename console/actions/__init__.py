"""Every write an operator can make: validate, one transaction, one event, one wake.

Pages, API and command line all call these; nothing else writes the desired tables. Refusals are RaydeckErrors
whose message is for people and whose `field` names the input.
"""

from console.actions.accelerators import (
    add_accelerator,
    add_price,
    edit_accelerator,
    remove_accelerator,
    reset_accelerator,
)
from console.actions.adapters import (
    delete_adapter,
    read_new_adapter,
    register_adapter,
    save_new_adapter,
)
from console.actions.alerts import edit_webhook, send_test
from console.actions.aliases import create_alias, delete_alias, edit_alias
from console.actions.deployments import (
    create_deployment,
    delete_deployment,
    edit_deployment,
    retry_deployment,
    roll_back,
    start_deployment,
    stop_deployment,
)
from console.actions.keys import create_key, edit_key, revoke_key
from console.actions.models import (
    delete_model,
    edit_model,
    inspect_model,
    read_new_model,
    register_model,
    save_new_model,
)
from console.actions.slo import edit_slo
from console.events import SYSTEM, Actor

__all__ = [
    "SYSTEM",
    "Actor",
    "add_accelerator",
    "add_price",
    "create_alias",
    "create_deployment",
    "create_key",
    "delete_adapter",
    "delete_alias",
    "delete_deployment",
    "delete_model",
    "edit_accelerator",
    "edit_alias",
    "edit_deployment",
    "edit_key",
    "edit_model",
    "edit_slo",
    "edit_webhook",
    "inspect_model",
    "read_new_adapter",
    "read_new_model",
    "register_adapter",
    "register_model",
    "remove_accelerator",
    "reset_accelerator",
    "retry_deployment",
    "revoke_key",
    "roll_back",
    "save_new_adapter",
    "save_new_model",
    "send_test",
    "start_deployment",
    "stop_deployment",
]
