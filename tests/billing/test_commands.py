import re
from datetime import UTC, datetime

import pytest
from django.core.management import CommandError

from billing.authentication import NotAuthenticated, authenticate
from billing.enums import Scope
from billing.models import ApiKey

pytestmark = [pytest.mark.integration, pytest.mark.django_db]


def test_issued_key_is_all_that_is_printed(run):
    told = run("issue_api_key", "--source", "gateway", "--scopes", "ingest,read")

    assert re.fullmatch(r"mk_[a-z0-9]{8}_[A-Za-z0-9_-]{43}\n", told.stdout)
    assert "shown this once" in told.stderr
    caller = authenticate(f"Bearer {told.stdout.strip()}", scope=Scope.READ)
    assert (caller.source, caller.scopes) == ("gateway", {Scope.INGEST, Scope.READ})


def test_key_may_expire(run):
    run(
        "issue_api_key",
        "--source=gateway",
        "--scopes=read",
        "--expires-at=2027-01-31T00:00:00Z",
    )

    assert ApiKey.objects.get().expires_at == datetime(2027, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--source=gateway", "--scopes=everything"],
        ["--source=gateway", "--scopes="],
        ["--source=gateway", "--scopes=read", "--expires-at=2027-01-31"],
        ["--scopes=read"],
    ],
)
def test_nonsense_issues_no_key(run, arguments):
    with pytest.raises(CommandError):
        run("issue_api_key", *arguments)

    assert ApiKey.objects.count() == 0


def test_revoked_key_is_refused(run):
    plain = run("issue_api_key", "--source=gateway", "--scopes=read").stdout.strip()
    prefix = ApiKey.objects.get().prefix

    assert run("revoke_api_key", prefix).stdout.startswith(f"Revoked {prefix}.")

    with pytest.raises(NotAuthenticated):
        authenticate(f"Bearer {plain}", scope=Scope.READ)
    with pytest.raises(CommandError, match="in force"):
        run("revoke_api_key", prefix)
