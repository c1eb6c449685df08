"""Webhook endpoints, and thin destinations which are registered from outside the API."""

from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.kinds import Boolean, String
from stripe_emulator.core.metadata import merged
from stripe_emulator.core.params import EXPAND, METADATA, Array, Hash, listing
from stripe_emulator.core.world import World

MAX_ENDPOINTS = 16
"""Endpoints an account can have (field: a third-party figure)."""

CREATE = Hash(
    {
        "api_version": String(),
        "connect": Boolean(),
        "description": String(unsettable=True),
        "enabled_events": Array(String()),
        "expand": EXPAND,
        "metadata": METADATA,
        "url": String(),
    },
    "enabled_events",
    "url",
)
UPDATE = Hash(
    {
        "description": String(unsettable=True),
        "disabled": Boolean(),
        "enabled_events": Array(String()),
        "expand": EXPAND,
        "metadata": METADATA,
        "url": String(),
    }
)
LIST = listing(expand=EXPAND)


def create(call: Call) -> Answer:
    given = call.given
    present = sum(
        1
        for each in call.world.webhook_endpoints
        if each["livemode"] == call.livemode and not each["_from_outside"]
    )
    if present >= MAX_ENDPOINTS:
        raise invalid(f"An account has a maximum of {MAX_ENDPOINTS} webhook endpoints.")
    endpoint = register(
        call.world,
        _url(given("url")),
        livemode=call.livemode,
        enabled_events=given("enabled_events"),
        api_version=given("api_version"),
    )
    endpoint["description"] = given("description")
    endpoint["metadata"] = merged({}, given("metadata", {}))
    return endpoint | {"secret": endpoint["_secret"]}


def register(  # noqa: PLR0913  what an endpoint is
    world: World,
    url: str,
    *,
    livemode: bool,
    secret: str | None = None,
    thin: bool = False,
    enabled_events: list[str] | None = None,
    api_version: str | None = None,
    from_outside: bool = False,
) -> Object:
    """Add an endpoint, of the snapshot or the thin kind; without a list it hears of everything.

    One from outside the API does not count to the account's endpoints.
    """
    return world.webhook_endpoints.add(
        {
            "_from_outside": from_outside,
            "id": world.ids.new("we"),
            "object": "webhook_endpoint",
            "api_version": api_version,
            "application": None,
            "created": world.clock.second(),
            "description": None,
            "enabled_events": enabled_events or ["*"],
            "livemode": livemode,
            "metadata": {},
            "status": "enabled",
            "url": url,
            "_former_secret": ("", 0.0),
            "_secret": secret or world.ids.new("whsec", 32),
            "_thin": thin,
        }
    )


def roll(world: World, endpoint: Object, secret: str) -> None:
    """Give an endpoint another secret; the former one can sign beside it for a while."""
    if secret != endpoint["_secret"]:
        until = world.clock.now() + world.settings.rolled_secret_seconds
        endpoint["_former_secret"] = (endpoint["_secret"], until)
        endpoint["_secret"] = secret


def secrets_of(endpoint: Object, now: float) -> list[str]:
    """Return what signs a delivery, the newest first."""
    former, until = endpoint["_former_secret"]
    return [endpoint["_secret"], former] if now < until else [endpoint["_secret"]]


def update(call: Call) -> Answer:
    endpoint = retrieve(call)
    if "url" in call.params:
        endpoint["url"] = _url(call.params["url"])
    if "disabled" in call.params:
        endpoint["status"] = "disabled" if call.params["disabled"] else "enabled"
    for name in ("description", "enabled_events"):
        if name in call.params:
            endpoint[name] = call.params[name]
    if "metadata" in call.params:
        endpoint["metadata"] = merged(endpoint["metadata"], call.params["metadata"])
    return endpoint


def retrieve(call: Call) -> Object:
    return call.world.webhook_endpoints.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    return call.world.webhook_endpoints.page(
        call.params, url=call.url, livemode=call.livemode, keep=lambda each: not each["_thin"]
    )


def delete(call: Call) -> Answer:
    endpoint = retrieve(call)
    call.world.webhook_endpoints.remove(endpoint["id"])
    call.world.outbox.drop_endpoint(endpoint["id"])
    return {"id": endpoint["id"], "object": "webhook_endpoint", "deleted": True}


def _url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise invalid("A url begins with https:// or http://.", param="url")
    return url
