"""Stripe's error answers. Which rule raises which one stands with the rule."""

from collections.abc import Mapping


class ApiError(Exception):
    """An answer other than 200, in the shape of v1 or v2."""

    def __init__(  # noqa: PLR0913  an error answer has this many parts
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002  Stripe's word
        code: str | None = None,
        param: str | None = None,
        decline_code: str | None = None,
        headers: Mapping[str, str] | None = None,
        started: bool = True,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.decline_code = decline_code
        self.headers = dict(headers or {})
        self.started = started
        """False for refusals before the endpoint ran: idempotency does not store them."""
        self.details = dict(details or {})
        """What v1 says besides: the object the error is about, by its kind."""

    def body(self, *, v2: bool) -> dict[str, object]:
        """Return the JSON body, without fields Stripe leaves out when empty."""
        error: dict[str, object] = {"message": self.message, "type": self.type}
        if self.type == "rate_limit" and not v2:
            # v1 has four types only; a limit is told by its code.
            error["type"] = "invalid_request_error"
        if self.code is not None:
            error["code"] = self.code
            error["doc_url"] = "https://stripe.com/docs/error-codes/" + self.code.replace("_", "-")
        elif v2:
            error["code"] = self.type
        error |= self.details
        if self.param is not None and not v2:
            error["param"] = self.param
        if self.decline_code is not None:
            error["decline_code"] = self.decline_code
        return {"error": error}


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """Return a 400 the endpoint decided on after it had started."""
    return ApiError(400, message, param=param, code=code)


def malformed(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """Return a 400 for parameters that never reached the endpoint."""
    return ApiError(400, message, param=param, code=code, started=False)


def missing_object(kind: str, object_id: str, *, param: str = "id", hint: str = "") -> ApiError:
    """Return the answer for an id that names nothing in this mode."""
    return ApiError(
        404, f"No such {kind}: '{object_id}'{hint}", code="resource_missing", param=param
    )


def unknown_url(method: str, path: str) -> ApiError:
    """Return the answer for a path Stripe does not serve, or we do not emulate."""
    return ApiError(
        404,
        f"Unrecognized request URL ({method}: {path}). The emulator serves what its README lists.",
        started=False,
    )
