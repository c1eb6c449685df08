import base64
import re
from datetime import timedelta

import pytest
from django.db import IntegrityError
from django.utils import timezone

from billing import authentication
from billing.authentication import (
    NO_LIMITS,
    Caller,
    Limits,
    MissingScope,
    NotAuthenticated,
    NotForCustomer,
    authenticate,
)
from billing.enums import Scope
from billing.models import ApiKey, Source

pytestmark = [pytest.mark.integration, pytest.mark.django_db]


@pytest.fixture
def issued():
    return authentication.issue("gateway", [Scope.INGEST, Scope.READ])


def test_key_has_a_prefix_to_show_and_256_secret_bits(issued):
    row, plain = issued

    match = re.fullmatch(r"(mk_[a-z0-9]{8})_([A-Za-z0-9_-]{43})", plain)
    assert match is not None
    assert row.prefix == match[1]
    assert len(base64.urlsafe_b64decode(match[2] + "=")) == 32


def test_key_tells_its_source_and_scopes(issued):
    row, plain = issued

    caller = authenticate(f"Bearer {plain}", scope=Scope.INGEST)

    assert caller == Caller(
        source_id=row.source_id,
        source="gateway",
        key_prefix=row.prefix,
        scopes=frozenset({Scope.INGEST, Scope.READ}),
    )


def test_key_without_limits_is_for_everybody(issued):
    _, plain = issued

    caller = authenticate(f"Bearer {plain}", scope=Scope.READ)

    assert caller.limits == NO_LIMITS
    assert caller.is_for("acme")


def test_key_for_some_customers_is_for_no_others(db):
    limits = Limits(frozenset({"acme"}), events_per_minute=600, units_per_minute=10**12)
    _, plain = authentication.issue("gateway", [Scope.READ], limits=limits)

    caller = authenticate(f"Bearer {plain}", scope=Scope.READ)

    assert caller.limits == limits
    caller.check_for("acme")
    assert not caller.is_for("globex")
    with pytest.raises(NotForCustomer, match="not for customer 'globex'"):
        caller.check_for("globex")


def test_key_for_nobody_cannot_be_stored(db):
    with pytest.raises(IntegrityError):
        authentication.issue("gateway", [Scope.READ], limits=Limits(frozenset()))


def test_key_is_taken_as_the_user_of_basic_auth(issued):
    _, plain = issued
    credentials = base64.b64encode(f"{plain}:".encode()).decode()

    assert authenticate(f"Basic {credentials}", scope=Scope.READ).source == "gateway"


def test_key_without_the_scope_is_refused_by_name(issued):
    _, plain = issued

    with pytest.raises(MissingScope) as refusal:
        authenticate(f"Bearer {plain}", scope=Scope.MANAGE)

    assert refusal.value.scope is Scope.MANAGE


def test_two_keys_of_one_source_work_side_by_side(issued):
    _, first = issued
    _, second = authentication.issue("gateway", [Scope.INGEST])

    callers = [authenticate(f"Bearer {key}", scope=Scope.INGEST) for key in (first, second)]

    assert Source.objects.count() == 1
    assert callers[0].source_id == callers[1].source_id


@pytest.mark.parametrize(
    "mangle",
    [
        lambda _: "",
        lambda _: "Bearer",
        lambda _: "Bearer ",
        lambda _: "Basic ???",
        lambda _: "Basic é",
        lambda _: "Bearer é",
        lambda _: "Basic " + base64.b64encode(b"\xff\xfe:").decode(),
        lambda plain: plain,
        lambda plain: f"Token {plain}",
        lambda plain: f"Bearer {plain[:-1]}",
        lambda plain: f"Bearer {plain}x",
        lambda plain: f"Bearer {plain[:-1]}{'A' if plain[-1] != 'A' else 'B'}",
        lambda plain: f"Bearer {plain.swapcase()}",
        lambda plain: "Bearer mk_aaaaaaaa_" + plain.rpartition("_")[2],
    ],
)
def test_mangled_key_is_refused(issued, mangle):
    _, plain = issued

    with pytest.raises(NotAuthenticated):
        authenticate(mangle(plain), scope=Scope.INGEST)


def test_dump_of_the_database_authenticates_nothing(issued):
    row, plain = issued
    row.refresh_from_db()
    digest = bytes(row.secret_hash)
    texts = [row.prefix, digest.hex(), base64.urlsafe_b64encode(digest).decode().rstrip("=")]
    guesses = [*texts, *(f"{row.prefix}_{text}" for text in texts)]

    for guess in guesses:
        with pytest.raises(NotAuthenticated):
            authenticate(f"Bearer {guess}", scope=Scope.INGEST)

    # The secret itself may hold a "_", so it is not what stands behind the last one.
    assert plain.removeprefix(f"{row.prefix}_") not in repr(ApiKey.objects.values_list())


def test_key_past_its_expiry_is_refused():
    now = timezone.now()
    _, over = authentication.issue("gateway", [Scope.READ], now - timedelta(seconds=1))
    _, good = authentication.issue("gateway", [Scope.READ], now + timedelta(hours=1))

    with pytest.raises(NotAuthenticated):
        authenticate(f"Bearer {over}", scope=Scope.READ)
    assert authenticate(f"Bearer {good}", scope=Scope.READ).source == "gateway"


def test_key_revoked_is_refused_and_cannot_be_revoked_twice(issued, now):
    row, plain = issued

    assert authentication.revoke(row.prefix, now=now)
    assert not authentication.revoke(row.prefix, now=now + timedelta(days=1))

    with pytest.raises(NotAuthenticated):
        authenticate(f"Bearer {plain}", scope=Scope.READ)
    row.refresh_from_db()
    assert row.revoked_at == now


def test_key_is_read_once_while_its_copy_is_trusted(issued, settings, django_assert_num_queries):
    _, plain = issued
    settings.BILLING_REFERENCE_CACHE_SECONDS = 30
    authentication._known_keys.forget()

    with django_assert_num_queries(1):
        for _ in range(3):
            authenticate(f"Bearer {plain}", scope=Scope.READ)

    authentication._known_keys.forget()


def test_revocation_reaches_this_process_at_once(issued, settings, now):
    row, plain = issued
    settings.BILLING_REFERENCE_CACHE_SECONDS = 30
    authenticate(f"Bearer {plain}", scope=Scope.READ)

    authentication.revoke(row.prefix, now=now)

    with pytest.raises(NotAuthenticated):
        authenticate(f"Bearer {plain}", scope=Scope.READ)
