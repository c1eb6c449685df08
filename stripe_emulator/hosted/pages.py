"""Which page answers which address."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

from stripe_emulator.core.billing import portal_sessions
from stripe_emulator.core.due import catch_up
from stripe_emulator.core.emulator import Emulator
from stripe_emulator.core.wire import Reply, Request
from stripe_emulator.core.world import World
from stripe_emulator.hosted import checkout, portal
from stripe_emulator.hosted.parts import message


class HostedPages:
    """Answer the browsers of an emulated account's customers."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator

    @staticmethod
    def owns(path: str) -> bool:
        """Tell whether a path is a page's."""
        return path.startswith((checkout.PATH, portal.PATH))

    def handle(self, request: Request) -> Reply:
        """Answer a request for a page, or a form sent from one."""
        world = self.emulator.world
        catch_up(world)
        form = None
        if request.method == "POST":
            body = request.body.decode("utf-8", "replace")
            form = dict(parse_qsl(body, keep_blank_values=True))
        if request.path.startswith(portal.PATH):
            return _portal(world, request.path.removeprefix(portal.PATH), form)
        return _checkout(world, request.path.removeprefix(checkout.PATH), form)


def _checkout(world: World, session_id: str, form: Mapping[str, str] | None) -> Reply:
    session = world.checkout_sessions.find(session_id)
    if session is None:
        return _nothing()
    if form is None:
        return checkout.show(world, session)
    return checkout.submit(world, session, form)


def _portal(world: World, path: str, form: Mapping[str, str] | None) -> Reply:
    session_id, step, subject = [*path.split("/", 2), "", ""][:3]
    session = portal_sessions.visited(world, session_id)
    if session is None:
        return _nothing()
    if form is None:
        return portal.show(world, session, step, subject)
    return portal.submit(world, session, step, subject, form)


def _nothing() -> Reply:
    return message("There is no such page", "The address is incomplete or too old.", status=404)
