"""All settings, read top to bottom: environment, core, apps, database, Celery, Stripe, ours, logs.

Times are UTC, durations carry their unit in the name, secrets have no default.
"""

from __future__ import annotations

import os
from pathlib import Path

import environ
import structlog
from django.templatetags.static import static
from django.urls import reverse_lazy
from kombu import Queue

from billing_project import env

BASE_DIR = Path(__file__).resolve().parent.parent

# --- environment ---------------------------------------------------------------------------------

STATE_DIR = Path(os.environ.get("STATE_DIR") or BASE_DIR / ".local")
env.read_defaults(STATE_DIR / "stack.env")

# --- core ----------------------------------------------------------------------------------------

SECRET_KEY = env.text("DJANGO_SECRET_KEY")
DEBUG = env.boolean("DJANGO_DEBUG", default=False)
ALLOWED_HOSTS = env.words("DJANGO_ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]")
CSRF_TRUSTED_ORIGINS = env.words("DJANGO_CSRF_TRUSTED_ORIGINS")
BEHIND_TLS = env.boolean("DJANGO_BEHIND_TLS", default=False)
"""True where a proxy ends TLS in front of us: cookies become secure and the proxy is believed."""
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = BEHIND_TLS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_TLS else None
SECURE_HSTS_SECONDS = 31_536_000 if BEHIND_TLS else 0
X_FRAME_OPTIONS = "DENY"

ROOT_URLCONF = "billing_project.urls"
WSGI_APPLICATION = "billing_project.wsgi.application"
# Clients post without a trailing slash; a redirect would turn their POST into a lost event.
APPEND_SLASH = False
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
FORMAT_MODULE_PATH = "billing_project.formats"

# --- apps and middleware -------------------------------------------------------------------------

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "django_celery_beat",
    "ninja",
    "billing",
    "usage",
    "reconciliation",
    "billing_project",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # Before the apps': the admin's first page is ours.
        "DIRS": [BASE_DIR / "billing_project" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
# Never in the session: a new API key is shown in a message, and sessions are database rows.
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

UNFOLD = {
    "SITE_TITLE": "Meterkeeper",
    "SITE_HEADER": "Meterkeeper",
    "SITE_SUBHEADER": "every unit, once, proven",
    "SITE_SYMBOL": "speed",
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "SITE_URL": None,
    "DASHBOARD_CALLBACK": "billing_project.dashboard.fill",
    "STYLES": [lambda _: static("billing_project/admin.css")],
    "SITE_FAVICONS": [
        {
            "rel": "icon",
            "type": "image/svg+xml",
            "href": lambda _: static("billing_project/favicon.svg"),
        }
    ],
    "SIDEBAR": {
        "show_search": True,
        "show_all_applications": False,
        "navigation": [
            {
                "title": "Usage",
                "items": [
                    {
                        "title": "Events",
                        "icon": "bolt",
                        "link": reverse_lazy("admin:usage_usageevent_changelist"),
                    },
                    {
                        "title": "Conflicts",
                        "icon": "call_split",
                        "link": reverse_lazy("admin:usage_eventconflict_changelist"),
                    },
                    {
                        "title": "Backfills",
                        "icon": "history",
                        "link": reverse_lazy("admin:usage_backfill_changelist"),
                    },
                    {
                        "title": "Flush runs",
                        "icon": "layers",
                        "link": reverse_lazy("admin:usage_flushrun_changelist"),
                    },
                    {
                        "title": "Submissions",
                        "icon": "send",
                        "link": reverse_lazy("admin:usage_submission_changelist"),
                    },
                    {
                        "title": "Held usage",
                        "icon": "pan_tool",
                        "link": reverse_lazy("admin:usage_heldusage_changelist"),
                    },
                    {
                        "title": "Error reports",
                        "icon": "report",
                        "link": reverse_lazy("admin:usage_errorreport_changelist"),
                    },
                    {
                        "title": "Dispatch fence",
                        "icon": "shield",
                        "link": reverse_lazy("admin:usage_fence_changelist"),
                    },
                ],
            },
            {
                "title": "Reconciliation",
                "items": [
                    {
                        "title": "Runs",
                        "icon": "fact_check",
                        "link": reverse_lazy("admin:reconciliation_reconciliationrun_changelist"),
                    },
                    {
                        "title": "Discrepancies",
                        "icon": "difference",
                        "link": reverse_lazy("admin:reconciliation_discrepancy_changelist"),
                    },
                    {
                        "title": "Cases",
                        "icon": "assignment_late",
                        "link": reverse_lazy("admin:billing_case_changelist"),
                    },
                ],
            },
            {
                "title": "Customers",
                "items": [
                    {
                        "title": "Customers",
                        "icon": "groups",
                        "link": reverse_lazy("admin:billing_customer_changelist"),
                    },
                    {
                        "title": "Subscriptions",
                        "icon": "autorenew",
                        "link": reverse_lazy("admin:billing_subscription_changelist"),
                    },
                    {
                        "title": "Invoices",
                        "icon": "receipt_long",
                        "link": reverse_lazy("admin:billing_invoice_changelist"),
                    },
                ],
            },
            {
                "title": "Catalogue",
                "items": [
                    {
                        "title": "Meters",
                        "icon": "straighten",
                        "link": reverse_lazy("admin:billing_meter_changelist"),
                    },
                    {
                        "title": "Plans",
                        "icon": "sell",
                        "link": reverse_lazy("admin:billing_plan_changelist"),
                    },
                ],
            },
            {
                "title": "Operations",
                "items": [
                    {
                        "title": "Stripe webhooks",
                        "icon": "webhook",
                        "link": reverse_lazy("admin:billing_webhookevent_changelist"),
                    },
                    {
                        "title": "Webhook sweeps",
                        "icon": "sync",
                        "link": reverse_lazy("admin:billing_webhooksweep_changelist"),
                    },
                    {
                        "title": "API keys",
                        "icon": "key",
                        "link": reverse_lazy("admin:billing_apikey_changelist"),
                    },
                    {
                        "title": "Schedule",
                        "icon": "schedule",
                        "link": reverse_lazy("admin:django_celery_beat_periodictask_changelist"),
                    },
                    {
                        "title": "Staff",
                        "icon": "badge",
                        "link": reverse_lazy("admin:auth_user_changelist"),
                    },
                ],
            },
        ],
    },
}

# --- database ------------------------------------------------------------------------------------

DATABASES = {"default": environ.Env.db_url_config(env.text("DATABASE_URL"))}
DATABASES["default"] |= {
    # Ingestion answers 2xx only after its own durable commit, so no request-wide transaction.
    "ATOMIC_REQUESTS": False,
    "CONN_MAX_AGE": 60,
    "CONN_HEALTH_CHECKS": True,
}
DATABASES["default"]["OPTIONS"] = {
    "connect_timeout": 5,
    "target_session_attrs": "read-write",
    "keepalives_idle": 30,
    "tcp_user_timeout": 15_000,
    "options": (
        "-c timezone=UTC -c lock_timeout=3s -c statement_timeout=15s"
        " -c idle_in_transaction_session_timeout=30s"
    ),
} | DATABASES["default"].get("OPTIONS", {})

# --- Celery: wake-ups, never facts ---------------------------------------------------------------

CELERY_BROKER_URL = env.text("CELERY_BROKER_URL")
_AMQP = CELERY_BROKER_URL.startswith(("amqp", "pyamqp"))
CELERY_TASK_DEFAULT_QUEUE = "celery"
CELERY_TASK_QUEUES = [
    Queue(name, queue_arguments={"x-queue-type": "quorum"} if _AMQP else None)
    for name in ("celery", "flush", "delivery", "webhooks", "reconciliation")
]
CELERY_TASK_ROUTES = {
    "usage.flush*": {"queue": "flush"},
    "usage.deliver*": {"queue": "delivery"},
    "billing.*": {"queue": "webhooks"},
    "reconciliation.*": {"queue": "reconciliation"},
}
"""Here and not at the tasks, where Celery deprecates it."""
CELERY_TASK_IGNORE_RESULT = True
CELERY_RESULT_EXPIRES = None
"""Else beat adds a nightly clean-up of results, of which there are none."""
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_ACKS_ON_FAILURE = True
CELERY_TASK_ACKS_ON_TIMEOUT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SOFT_TIME_LIMIT = 45
"""Above Stripe's whole-call deadline of 25 s, so that it never ends a call in mid-flight."""
CELERY_TASK_TIME_LIMIT = 60
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 30
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
CELERY_WORKER_MAX_TASKS_PER_CHILD = 1_000
CELERY_WORKER_SEND_TASK_EVENTS = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = (
    {"confirm_publish": True}
    if _AMQP
    else {
        # Above the longest task, so that a healthy one is not started twice.
        "visibility_timeout": 300,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "health_check_interval": 25,
        "retry_on_timeout": True,
    }
)
CELERY_TIMEZONE = "UTC"
CELERY_ENABLE_UTC = True
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_BEAT_MAX_LOOP_INTERVAL = 5
DJANGO_CELERY_BEAT_TZ_AWARE = True

# --- Stripe --------------------------------------------------------------------------------------

STRIPE_SECRET_KEY, STRIPE_EMULATOR_URL, STRIPE_LIVE_MODE = env.stripe_access()
STRIPE_API_VERSION = "2026-10-28.endive"
STRIPE_TRANSPORT = "billing.gateway.transport.over_http"
"""Dotted path of the function that makes the SDK's inner HTTP client."""
STRIPE_CONNECT_TIMEOUT_SECONDS = 3
STRIPE_CALL_DEADLINE_SECONDS = 25
"""For a whole call, answer's last byte included. The SDK's own is 80 s per socket operation."""
STRIPE_RATE_LIMITS = {
    "meter_events": env.whole(
        "STRIPE_METER_EVENTS_PER_SECOND", 900 if STRIPE_LIVE_MODE else 20, at_least=1
    ),
    "stream": env.whole("STRIPE_STREAM_PER_SECOND", 9_000 if STRIPE_LIVE_MODE else 10, at_least=1),
    "reads": env.whole("STRIPE_READS_PER_SECOND", 20 if STRIPE_LIVE_MODE else 4, at_least=1),
    "account": env.whole("STRIPE_TEST_MODE_CALLS_PER_SECOND", 24, at_least=1),
}
"""Calls a second, of all workers together; for the stream events in live mode, requests in test.

Stripe's own, of which a tenth and more stays free: in live mode 1,000 v1 meter events, 10,000
events of the stream and 25 calls of any other endpoint; in test mode 25 calls of everything, which
is what `account` stays below there (live mode does not use it) and the others share. An account
for which Stripe raised a limit sets it in the environment. Source: docs.stripe.com/rate-limits.
"""
STRIPE_WEBHOOK_SECRETS = env.words("STRIPE_WEBHOOK_SECRET")
"""Secrets of the snapshot endpoint, comma-separated while one is rolled. Empty: refuses all."""
STRIPE_THIN_WEBHOOK_SECRETS = env.words("STRIPE_THIN_WEBHOOK_SECRET")
DEPLOYMENT = env.text("METERKEEPER_DEPLOYMENT", "default")
"""Stamped on what we create at Stripe, so that one account can serve several deployments."""

# --- billing -------------------------------------------------------------------------------------

BILLING_CATALOGUE_FILE = Path(env.text("BILLING_CATALOGUE_FILE", str(BASE_DIR / "catalogue.toml")))
BILLING_WEBHOOK_ROUTES = "billing_project.webhook_routes.ROUTES"
"""Dotted path of the table from event type to handler; billing itself imports no other package."""
BILLING_WEBHOOK_BODY_BYTES = 1024 * 1024
"""Largest webhook read: far above Stripe's, whose invoices show their first ten lines only."""
BILLING_WEBHOOK_SWEEP_DAYS = env.whole("BILLING_WEBHOOK_SWEEP_DAYS", 4, at_least=1, at_most=30)
"""How far back the nightly sweep lists Stripe's events, and further where no sweep has been.

Stripe repeats a delivery for three days, so later nobody brings it any more; a day is added for a
night in which the sweep could not run. It lists thirty days.
"""
BILLING_REFERENCE_CACHE_SECONDS = 30
"""How long a web process trusts its copy of API keys and catalogue."""

# --- usage ---------------------------------------------------------------------------------------

USAGE_BODY_LIMIT_BYTES = 1024 * 1024
USAGE_GZIP_RATIO = 200
"""How many times its own length a gzip body may become; usage repeats itself, but not so much."""
USAGE_EVENTS_PER_REQUEST = 1_000
USAGE_SHARED_COMMIT_EVENTS = env.whole("USAGE_SHARED_COMMIT_EVENTS", 20, at_least=0, at_most=200)
"""Requests of at most so many events share commits with others; 0: each has its own."""
USAGE_LATE_DAYS = 34
"""Oldest `time` accepted. Stripe takes 35 days; the day between is ours to deliver in."""
USAGE_AHEAD_SECONDS = 120
"""How far a caller's clock may run ahead. Stripe takes 300 s."""
USAGE_FLUSH_SECONDS = env.whole("USAGE_FLUSH_SECONDS", 60, at_least=1, at_most=3_600)
USAGE_FLUSH_EVENTS = env.whole("USAGE_FLUSH_EVENTS", 200_000, at_least=1_000)
"""Events one flush run may fold: it stays one short transaction."""
USAGE_DELIVERY_SECONDS = env.whole("USAGE_DELIVERY_SECONDS", 30, at_least=1, at_most=600)
USAGE_CALLS_IN_FLIGHT = env.whole("USAGE_CALLS_IN_FLIGHT", 16, at_least=1, at_most=128)
"""Calls one worker makes at once. At 80 ms a call, 16 are 200 calls a second."""
USAGE_STREAM = env.boolean("USAGE_STREAM", default=True)
"""Whether a large backlog goes over the meter event stream. Without it v1 does everything."""
USAGE_STREAM_FROM = 500
"""From so many waiting submissions on: below, v1 tells at once what Stripe thinks of each."""
USAGE_DELIVERY_PASS_SECONDS = 15
"""When a delivery pass makes no new claim; with one whole call added it fits the soft limit."""
USAGE_LEASE_SECONDS = 60
"""How long a claim lasts; then its outcome counts as unknown."""
USAGE_DOUBT_HOURS = 23
"""How long after the first unknown outcome an identifier is sent again; Stripe keeps it 24 h."""
USAGE_QUERY_SECONDS = env.whole("USAGE_QUERY_SECONDS", 10, at_least=1, at_most=60)
"""How long the database may count for one question about usage; then it is refused as too large."""

# --- reconciliation ------------------------------------------------------------------------------

RECONCILIATION_SETTLE_SECONDS = env.whole("RECONCILIATION_SETTLE_SECONDS", 3_600)
"""How long after a cell's last attempt a difference may still be Stripe's lag."""

# --- logging -------------------------------------------------------------------------------------

_PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
# Tracebacks without local variables: those hold keys and customers' data.
_RENDERING: list[structlog.typing.Processor] = (
    [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if env.boolean("LOG_JSON", default=False)
    else [
        structlog.dev.ConsoleRenderer(
            colors=False, pad_event_to=32, exception_formatter=structlog.dev.plain_traceback
        )
    ]
)
structlog.configure(
    processors=[*_PROCESSORS, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "structured": {
            "()": structlog.stdlib.ProcessorFormatter,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_RENDERING,
            ],
            "foreign_pre_chain": _PROCESSORS,
        },
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structured"}},
    "root": {"handlers": ["stderr"], "level": env.text("LOG_LEVEL", "INFO")},
    "loggers": {
        # A 4xx is the caller's news, told in the answer; the SDK logs every call at INFO.
        "django.request": {"level": "ERROR"},
        "stripe": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
    },
}
