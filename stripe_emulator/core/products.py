"""Products. One with prices cannot be deleted."""

from stripe_emulator.core import events
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, in_span
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.kinds import Boolean, Choice, Kind, String
from stripe_emulator.core.metadata import merged
from stripe_emulator.core.params import CREATED, EXPAND, METADATA, Array, Hash, anything, listing
from stripe_emulator.core.price_params import OF_A_PRODUCT

_FIELDS: dict[str, Kind] = {
    "active": Boolean(),
    "description": String(unsettable=True),
    "expand": EXPAND,
    "images": anything(),
    "marketing_features": anything(),
    "metadata": METADATA,
    "name": String(),
    "package_dimensions": anything(),
    "shippable": anything(),
    "statement_descriptor": String(22),
    "tax_code": String(unsettable=True),
    "tax_details": anything(),
    "unit_label": String(unsettable=True),
    "url": String(unsettable=True),
}
CREATE = Hash(
    {
        **_FIELDS,
        "default_price_data": OF_A_PRODUCT,
        "id": String(),
        "type": Choice("good", "service"),
    },
    "name",
)
UPDATE = Hash({**_FIELDS, "default_price": String()})
LIST = listing(
    active=Boolean(),
    created=CREATED,
    expand=EXPAND,
    ids=Array(String()),
    shippable=Boolean(),
    type=Choice("good", "service"),
    url=String(),
)
_PLAIN = ("active", "description", "name", "statement_descriptor", "tax_code", "unit_label", "url")


def make(call: Call, params: Object) -> Object:
    """Store a product; prices made with `product_data` come here too.

    A default price described with it is made by `prices`.
    """
    world = call.world
    product_id = params.get("id") or world.ids.new("prod", 14)
    if world.products.find(product_id) is not None:
        raise invalid("Product already exists.", param="id", code="resource_already_exists")
    product: Object = {
        "id": product_id,
        "object": "product",
        "active": True,
        "created": world.second(),
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": call.livemode,
        "marketing_features": [],
        "metadata": merged({}, params.get("metadata", {})),
        "name": params["name"],
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": params.get("type", "service"),
        "unit_label": None,
        "updated": world.second(),
        "url": None,
    }
    _set(product, params)
    world.products.add(product)
    events.emit(world, "product.created", product)
    return product


def update(call: Call) -> Answer:
    product = call.world.products.get(call.path["id"], livemode=call.livemode)
    if "default_price" in call.params:
        call.world.prices.get(
            call.params["default_price"], livemode=call.livemode, param="default_price", status=400
        )
    before = dict(product)
    product["metadata"] = merged(product["metadata"], call.given("metadata", {}))
    _set(product, call.params)
    if "default_price" in call.params:
        product["default_price"] = call.params["default_price"]
    previous = events.changes(before, product)
    if previous:
        previous["updated"] = before["updated"]
        product["updated"] = call.world.second()
        events.emit(call.world, "product.updated", product, previous=previous)
    return product


def retrieve(call: Call) -> Answer:
    return call.world.products.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    given = call.given
    return call.world.products.page(
        call.params,
        url=call.url,
        livemode=call.livemode,
        keep=lambda each: (
            (given("active") is None or each["active"] == given("active"))
            and (given("ids") is None or each["id"] in given("ids"))
            and (given("type") is None or each["type"] == given("type"))
            and (given("url") is None or each["url"] == given("url"))
            and (given("shippable") is None or bool(each["shippable"]) == given("shippable"))
            and in_span(given("created"), each["created"])
        ),
    )


def delete(call: Call) -> Answer:
    product = call.world.products.get(call.path["id"], livemode=call.livemode)
    if any(price["product"] == product["id"] for price in call.world.prices):
        raise invalid(f"The product {product['id']} has prices, so it cannot be deleted.")
    call.world.products.remove(product["id"])
    events.emit(call.world, "product.deleted", product)
    return {"id": product["id"], "object": "product", "deleted": True}


def _set(product: Object, params: Object) -> None:
    for name in _PLAIN:
        if name in params:
            product[name] = params[name]
