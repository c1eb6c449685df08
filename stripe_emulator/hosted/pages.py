"""Which page answers which address."""

from urllib.parse import parse_qsl

from stripe_emulator.core.due import catch_up
from stripe_emulator.core.emulator import Emulator
from stripe_emulator.core.wire import Reply, Request
from stripe_emulator.hosted import checkout
from stripe_emulator.hosted.parts import message


class HostedPages:
    """Answer the browsers of an emulated account's customers."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator

    @staticmethod
    def owns(path: str) -> bool:
        """Tell whether a path is a page's."""
        return path.startswith(checkout.PATH)

    def handle(self, request: Request) -> Reply:
        """Answer a request for a page, or a form sent from one."""
        catch_up(self.emulator.world)
        world = self.emulator.world
        form = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
        session = world.checkout_sessions.find(request.path.removeprefix(checkout.PATH))
        if session is None:
            return _nothing()
        if request.method == "POST":
            return checkout.submit(world, session, form)
        return checkout.show(world, session)


def _nothing() -> Reply:
    return message("There is no such page", "The address is incomplete or too old.", status=404)
