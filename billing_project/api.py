"""The HTTP API as one: its routers, its errors as problem+json, and its description."""

from __future__ import annotations

from typing import Any

import structlog
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError
from ninja.openapi.schema import OpenAPISchema

from billing.api import ApiKey, NoSuch
from billing.api import router as billing_router
from billing.authentication import MissingScope, NotAuthenticated, NotForCustomer
from billing.customers import CustomerConflict, CustomerRefused
from billing.problems import problem
from billing.subscriptions import SubscriptionPending, SubscriptionRefused
from billing_project.problem_answers import announce
from reconciliation.api import router as reconciliation_router
from usage.api.backfills import router as backfills_router
from usage.api.corrections import router as corrections_router
from usage.api.costs import router as costs_router
from usage.api.cursors import InvalidCursor
from usage.api.openapi import OPENAPI_PATHS
from usage.api.questions import router as usage_router
from usage.api.stories import router as stories_router
from usage.api.submissions import router as submissions_router
from usage.questions import Unanswerable

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = 5


class Api(NinjaAPI):
    """The API, with the paths that plain views serve in its description."""

    def get_openapi_schema(
        self, *, path_prefix: str | None = None, path_params: dict[str, Any] | None = None
    ) -> OpenAPISchema:
        schema = super().get_openapi_schema(path_prefix=path_prefix, path_params=path_params)
        announce(schema["paths"])
        schema["paths"] = OPENAPI_PATHS | schema["paths"]
        return schema


api = Api(
    title="Meterkeeper",
    version="1",
    description=(
        "Usage-based billing: report what was used, and every unit reaches the right invoice"
        " exactly once. Errors are `application/problem+json`. Every request may be repeated."
    ),
    auth=ApiKey(),
    docs_url="/docs",
    openapi_url="/openapi.json",
)
# Before the addresses of customers, which take whatever follows for an external id.
api.add_router("/v1", costs_router)
api.add_router("/v1", billing_router)
api.add_router("/v1", submissions_router)
api.add_router("/v1", stories_router)
api.add_router("/v1", corrections_router)
api.add_router("/v1", backfills_router)
api.add_router("/v1", reconciliation_router)
api.add_router("/v1", usage_router)


@api.exception_handler(NotAuthenticated)
def _not_authenticated(_: HttpRequest, error: NotAuthenticated) -> HttpResponse:
    return problem(401, "Not authenticated", str(error))


@api.exception_handler(MissingScope)
@api.exception_handler(NotForCustomer)
def _not_allowed(_: HttpRequest, error: Exception) -> HttpResponse:
    return problem(403, "Not allowed", str(error))


@api.exception_handler(OperationalError)
@api.exception_handler(InterfaceError)
def _no_database(_: HttpRequest, error: Exception) -> HttpResponse:
    log.error("api.database_unavailable", exc_info=error)
    response = problem(503, "Not available", "The database does not answer; repeat the request.")
    response["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


@api.exception_handler(NoSuch)
def _no_such(_: HttpRequest, error: NoSuch) -> HttpResponse:
    if error.field:
        return problem(
            422,
            "Invalid request",
            str(error),
            errors=[{"field": error.field, "reason": str(error)}],
        )
    return problem(404, "Not found", str(error))


@api.exception_handler(Unanswerable)
def _unanswerable(_: HttpRequest, error: Unanswerable) -> HttpResponse:
    errors = [{"field": error.field, "reason": error.reason}]
    return problem(422, "Invalid request", str(error), errors=errors)


@api.exception_handler(InvalidCursor)
def _invalid_cursor(_: HttpRequest, error: InvalidCursor) -> HttpResponse:
    errors = [{"field": "cursor", "reason": str(error)}]
    return problem(422, "Invalid request", f"cursor: {error}", errors=errors)


@api.exception_handler(CustomerConflict)
@api.exception_handler(SubscriptionRefused)
def _conflict(_: HttpRequest, error: Exception) -> HttpResponse:
    return problem(409, "Conflict", str(error))


@api.exception_handler(CustomerRefused)
def _refused(_: HttpRequest, error: CustomerRefused) -> HttpResponse:
    return problem(422, "Refused by Stripe", str(error))


@api.exception_handler(SubscriptionPending)
def _pending(_: HttpRequest, error: SubscriptionPending) -> HttpResponse:
    response = problem(503, "Not finished yet", str(error))
    response["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


@api.exception_handler(ValidationError)
def _invalid(_: HttpRequest, error: ValidationError) -> HttpResponse:
    errors = [
        # The first parts say where: ("body", "body", "email").
        {"field": _field(each["loc"]), "reason": each["msg"].removeprefix("Value error, ")}
        for each in error.errors
    ]
    detail = "; ".join(f"{each['field']}: {each['reason']}" for each in errors)
    return problem(422, "Invalid request", detail, errors=errors)


@api.exception_handler(HttpError)
def _http_error(_: HttpRequest, error: HttpError) -> HttpResponse:
    return problem(error.status_code, "Bad request", str(error))


def _field(location: tuple[Any, ...]) -> str:
    """Return the field without where it was sent: `email`, or `body` for all of it."""
    names = [str(part) for part in location]
    return ".".join(names[2:] or names[1:] or names)
