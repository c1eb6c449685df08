"""API keys: issuing, revoking, and telling from a request's header who calls.

A key is 256 random bits. The database holds its first characters, by which it is found, and its
SHA-256, which needs no salt or stretching because such a secret cannot be guessed; so a copy of
the database lets nobody in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from billing.enums import Scope
from billing.models import ApiKey, Source
from billing.remembered import Remembered

PREFIX_CHARACTERS = string.ascii_lowercase + string.digits
PREFIX_LENGTH = 8
SECRET_BYTES = 32
KEY = re.compile(r"(mk_[a-z0-9]{8})_[A-Za-z0-9_-]{43}")
"""`mk_`, 8 characters that may be shown, and 43 that hold the secret."""


OUR_SOURCES = "meterkeeper:"
"""How the names of our own sources begin. No key is issued for one: what it holds is our word."""


class SourceReserved(Exception):
    """A source of our own, for which nobody else may speak."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} is kept for Meterkeeper's own corrections; choose another name."
        )


class NotAuthenticated(Exception):
    """No key, or one that is unknown, revoked or expired. Which of them is not told."""

    def __init__(self) -> None:
        super().__init__(
            "Send a valid API key as `Authorization: Bearer mk_…`, or as the user of basic auth."
        )


class MissingScope(Exception):
    """The key is good but was not issued for this."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(f"This API key lacks the scope `{scope.value}`.")
        self.scope = scope


class NotForCustomer(Exception):
    """The key is good but was not issued for this customer."""

    def __init__(self, external_id: str) -> None:
        super().__init__(f"This API key is not for customer {external_id!r}.")
        self.external_id = external_id


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may do: whom it is for, and how much it may report. None is no limit."""

    customers: frozenset[str] | None = None
    events_per_minute: int | None = None
    units_per_minute: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the source their events belong to, and what their key allows."""

    source_id: int
    source: str
    key_prefix: str
    scopes: frozenset[Scope]
    limits: Limits = NO_LIMITS

    def is_for(self, external_id: str) -> bool:
        """Return whether the key may report, read or change this customer."""
        return self.limits.customers is None or external_id in self.limits.customers

    def check_for(self, external_id: str) -> None:
        """Raise `NotForCustomer` unless the key is for this customer."""
        if not self.is_for(external_id):
            raise NotForCustomer(external_id)


@dataclass(frozen=True, slots=True)
class _KnownKey:
    caller: Caller
    secret_hash: bytes
    expires_at: datetime | None


def source_named(name: str) -> Source:
    """Return the source of this name, made when new.

    Raises:
        SourceReserved: it is a source of our own.
    """
    if name.startswith(OUR_SOURCES):
        raise SourceReserved(name)
    source, _ = Source.objects.get_or_create(name=name)
    return source


def issue(
    source_name: str,
    scopes: Iterable[Scope],
    expires_at: datetime | None = None,
    limits: Limits = NO_LIMITS,
) -> tuple[ApiKey, str]:
    """Issue a key for the source of this name, made when new, and return it with its plain text.

    The plain text exists nowhere else. A source may hold several keys, so that one can be rolled.

    Raises:
        SourceReserved: it is a source of our own.
    """
    source = source_named(source_name)
    prefix = "mk_" + "".join(secrets.choice(PREFIX_CHARACTERS) for _ in range(PREFIX_LENGTH))
    plain = f"{prefix}_{secrets.token_urlsafe(SECRET_BYTES)}"
    key = ApiKey.objects.create(
        source=source,
        prefix=prefix,
        secret_hash=_hash(plain),
        scopes=[scope.value for scope in scopes],
        expires_at=expires_at,
        # By name, so that staff find a customer in a long list.
        customers=None if limits.customers is None else sorted(limits.customers),
        events_per_minute=limits.events_per_minute,
        units_per_minute=limits.units_per_minute,
    )
    return key, plain


def revoke(prefix: str, *, now: datetime) -> bool:
    """Revoke the key with this prefix; return whether one was in force.

    Other processes may trust their copy of it for BILLING_REFERENCE_CACHE_SECONDS more.
    """
    revoked = ApiKey.objects.filter(prefix=prefix, revoked_at__isnull=True).update(revoked_at=now)
    _known_keys.forget()
    return revoked > 0


def authenticate(authorization: str, *, scope: Scope) -> Caller:
    """Return who sent this `Authorization` header: bearer, or basic with the key as user.

    Raises:
        NotAuthenticated: there is no valid key in it.
        MissingScope: the key does not allow `scope`.
    """
    plain = _key_in(authorization)
    match = KEY.fullmatch(plain)
    known = _known_keys.get(match[1]) if match is not None else None
    if known is None or not hmac.compare_digest(known.secret_hash, _hash(plain)):
        raise NotAuthenticated
    if known.expires_at is not None and known.expires_at <= timezone.now():
        raise NotAuthenticated
    if scope not in known.caller.scopes:
        raise MissingScope(scope)
    return known.caller


def _key_in(authorization: str) -> str:
    scheme, _, credentials = authorization.strip().partition(" ")
    credentials = credentials.strip()
    if scheme.lower() == "bearer":
        return credentials
    if scheme.lower() == "basic":
        try:
            user, _, _ = base64.b64decode(credentials, validate=True).decode().partition(":")
        except ValueError:  # no base64, no UTF-8, or not even ASCII
            return ""
        return user
    return ""


def _hash(plain: str) -> bytes:
    return hashlib.sha256(plain.encode()).digest()


def _load(prefix: str) -> _KnownKey | None:
    key = ApiKey.objects.select_related("source").filter(prefix=prefix, revoked_at=None).first()
    if key is None:
        return None
    return _KnownKey(
        caller=Caller(
            source_id=key.source_id,
            source=key.source.name,
            key_prefix=key.prefix,
            scopes=frozenset(Scope(scope) for scope in key.scopes),
            limits=Limits(
                customers=None if key.customers is None else frozenset(key.customers),
                events_per_minute=key.events_per_minute,
                units_per_minute=key.units_per_minute,
            ),
        ),
        secret_hash=bytes(key.secret_hash),
        expires_at=key.expires_at,
    )


_known_keys = Remembered(_load)
