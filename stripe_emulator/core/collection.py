"""Objects of one kind, newest first, and Stripe's paging over them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stripe_emulator.core.errors import invalid, missing_object

Object = dict[str, Any]
DEFAULT_PAGE = 10


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list, not yet rendered."""

    data: Sequence[Object]
    has_more: bool
    url: str


class Collection:
    """Keep objects by id in the order they were made."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._objects: dict[str, Object] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Object]:
        """Yield every object, oldest first."""
        return iter(list(self._objects.values()))

    def add(self, obj: Object) -> Object:
        self._objects[obj["id"]] = obj
        return obj

    def find(self, object_id: str) -> Object | None:
        return self._objects.get(object_id)

    def get(
        self, object_id: str, *, livemode: bool, param: str = "id", status: int = 404
    ) -> Object:
        """Return the object of this mode, or refuse as Stripe does for an id it does not know.

        An id given in the path is a 404; one given as a parameter is a 400.
        """
        found = self._objects.get(object_id)
        if found is not None and mode(found) == livemode:
            return found
        hint = ""
        if found is not None:
            other, used = ("live", "test") if mode(found) else ("test", "live")
            hint = f"; it exists in {other} mode, and the key of this request is for {used} mode"
        error = missing_object(self.kind, object_id, param=param, hint=hint)
        error.status = status
        raise error

    def remove(self, object_id: str) -> None:
        del self._objects[object_id]

    def page(
        self,
        params: Mapping[str, Any],
        *,
        url: str,
        livemode: bool,
        keep: Callable[[Object], bool] = lambda _: True,
    ) -> Page:
        """Return the page the cursors ask for, of the objects `keep` wants."""
        chosen = [
            each
            for each in reversed(self._objects.values())
            if mode(each) == livemode and keep(each)
        ]
        return paged(chosen, params, url=url, kind=self.kind)


def mode(obj: Object) -> bool:
    """Return whether the object is live; what is left of a deleted one hides it."""
    livemode: bool = obj["livemode"] if "livemode" in obj else obj["_livemode"]
    return livemode


def paged(objects: Sequence[Object], params: Mapping[str, Any], *, url: str, kind: str) -> Page:
    """Cut one page out of `objects`, which are in the order they are listed in."""
    limit = params.get("limit", DEFAULT_PAGE)
    after, before = params.get("starting_after"), params.get("ending_before")
    if after is not None and before is not None:
        raise invalid(
            "starting_after and ending_before exclude each other.", param="starting_after"
        )
    if after is not None:
        start = _position(objects, after, kind, "starting_after") + 1
        return Page(objects[start : start + limit], start + limit < len(objects), url)
    if before is not None:
        end = _position(objects, before, kind, "ending_before")
        start = max(0, end - limit)
        return Page(objects[start:end], start > 0, url)
    return Page(objects[:limit], limit < len(objects), url)


def _position(objects: Sequence[Object], cursor: str, kind: str, param: str) -> int:
    for index, each in enumerate(objects):
        if each["id"] == cursor:
            return index
    raise invalid(f"No such {kind}: '{cursor}'", param=param, code="resource_missing")


def in_span(asked: Any, moment: int) -> bool:
    """Tell whether `moment` is what a filter like `created` asks for.

    It asks for a number, or for bounds named gt, gte, lt and lte.
    """
    if asked is None:
        return True
    if isinstance(asked, str):
        return moment == _number(asked)
    tests: dict[str, Callable[[int], bool]] = {
        "gt": lambda bound: moment > bound,
        "gte": lambda bound: moment >= bound,
        "lt": lambda bound: moment < bound,
        "lte": lambda bound: moment <= bound,
    }
    for name, bound in asked.items():
        if name not in tests:
            raise invalid(f"Received unknown parameter: created[{name}]", param=f"created[{name}]")
        if not tests[name](_number(bound)):
            return False
    return True


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise invalid(f"Invalid timestamp: {text[:40]}", param="created") from None
