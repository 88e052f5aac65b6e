"""All settings, read from the environment (docs/operations.md lists them). Holds no logic beyond reading.

Ports live in console/ports.py and secrets in console/secrets.py, since the supervisor and the probes
need them before Django is set up.
"""

import os
from pathlib import Path
from typing import Any

import dj_database_url

from console import paths, ports, secrets

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = paths.data_dir()

HOST = os.environ.get("RAYDECK_HOST", "127.0.0.1")
PORT = ports.port("web")
DEBUG = os.environ.get("RAYDECK_DEBUG", "") == "1"
SECRET_KEY = secrets.secret_key()
ALLOWED_HOSTS = [h for h in os.environ.get("RAYDECK_ALLOWED_HOSTS", "").split(",") if h] or [
    "127.0.0.1",
    "localhost",
    "[::1]",
    HOST,
]
CSRF_TRUSTED_ORIGINS = [o for o in os.environ.get("RAYDECK_TRUSTED_ORIGINS", "").split(",") if o]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "console",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "console.middleware.ContentSecurityPolicy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "console.urls"
ASGI_APPLICATION = "console.asgi.application"
AUTH_USER_MODEL = "console.User"
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"
AUTH_PASSWORD_VALIDATORS: list[dict[str, Any]] = [
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 10},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": False,
        "OPTIONS": {
            "builtins": ["console.templatetags.raydeck", "console.templatetags.planning"],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "console.shell.shell",
            ],
        },
    }
]

DATABASE_URL = os.environ.get("DATABASE_URL") or f"sqlite:///{DATA_DIR / 'raydeck.sqlite3'}"
DATABASES: dict[str, Any] = {"default": dj_database_url.parse(DATABASE_URL, conn_max_age=60)}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # IMMEDIATE: a transaction takes the write lock when it begins, so two writers queue (busy timeout)
    # instead of one failing at its first write. WAL: readers never wait for the writer.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = (
    os.environ.get("REDIS_URL") or f"redis://:{secrets.redis_password()}@127.0.0.1:{ports.port('redis')}/0"
)
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL], "prefix": "raydeck"},
    }
}
CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 300}
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"

# Ray: an existing cluster when the operator names one, else the embedded head that `up` starts.
RAY_DASHBOARD_URL = (
    os.environ.get("RAYDECK_RAY_DASHBOARD_URL") or f"http://127.0.0.1:{ports.port('ray_dashboard')}"
)
RAY_IS_EMBEDDED = not os.environ.get("RAYDECK_RAY_DASHBOARD_URL")
RAY_TOKEN_FILE = secrets.ray_token_file()
GATEWAY_URL = os.environ.get("RAYDECK_GATEWAY_URL") or f"http://127.0.0.1:{ports.port('gateway')}"
GATEWAY_HOST = os.environ.get("RAYDECK_GATEWAY_HOST", "127.0.0.1")
# Where serving/ lies on the cluster's nodes: this checkout for the embedded head; empty if the image has it.
CLUSTER_PYTHONPATH = os.environ.get("RAYDECK_CLUSTER_PYTHONPATH", str(BASE_DIR) if RAY_IS_EMBEDDED else "")
# How long a request to a sleeping deployment is held before it is told to come back later.
WAKE_HOLD_S = float(os.environ.get("RAYDECK_WAKE_HOLD_S", "20"))
# A deployment that is not ready by then is marked failed; Ray itself would wait for ever.
START_DEADLINE_S = float(os.environ.get("RAYDECK_START_DEADLINE_S", "900"))
PLACING_DEADLINE_S = float(os.environ.get("RAYDECK_PLACING_DEADLINE_S", "120"))
# A cluster with declarative applications of somebody else is left alone unless this says otherwise.
TAKE_OVER_CLUSTER = os.environ.get("RAYDECK_TAKE_OVER_CLUSTER", "") == "1"
# A token that may read /metrics and nothing else; empty: only tokens of people may.
METRICS_TOKEN = os.environ.get("RAYDECK_METRICS_TOKEN", "").strip()
# Whether alerts may be sent to loopback and private addresses; link-local ones never are.
WEBHOOK_ALLOW_PRIVATE = os.environ.get("RAYDECK_WEBHOOK_ALLOW_PRIVATE", "") == "1"
CHAT_HISTORY = os.environ.get("RAYDECK_CHAT_HISTORY", "on") != "off"

LANGUAGE_CODE = "en"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = DATA_DIR / "staticfiles"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG or os.environ.get("RAYDECK_TESTING") == "1"
        else "console.static_storage.HashedStaticFiles"
    },
}
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = os.environ.get("RAYDECK_HTTPS", "") == "1"
SESSION_COOKIE_NAME = (
    f"raydeck_session_{PORT}"  # cookies ignore ports: two copies must not log each other out
)
CSRF_COOKIE_NAME = f"raydeck_csrf_{PORT}"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": os.environ.get("RAYDECK_LOG_LEVEL", "INFO")},
    "loggers": {"httpx": {"level": "WARNING"}, "httpcore": {"level": "WARNING"}},
}
