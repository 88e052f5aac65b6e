"""The ASGI application: pages and API over HTTP, live updates and chat over WebSocket."""

import importlib.util
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "console.settings")
django_application = get_asgi_application()  # sets Django up, so it comes before what imports models

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import path  # noqa: E402

sockets = []
if importlib.util.find_spec("console.consumers"):
    from console.consumers import LiveConsumer

    sockets.append(path("ws/live/", LiveConsumer.as_asgi()))
if importlib.util.find_spec("console.chat"):
    from console.chat import ChatConsumer

    sockets.append(path("ws/chat/", ChatConsumer.as_asgi()))

application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(sockets))),
    }
)
