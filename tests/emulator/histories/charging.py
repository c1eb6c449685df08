"""What a quantity costs at a price: the lines with quantity and amount. Whole numbers, nothing is rounded but the end."""

from __future__ import annotations

from tests.emulator.histories.story import ONE, Price


def charged(price: Price, quantity: int) -> list[tuple[int, int]]:
    """Return (quantity in 10^-12, amount in minor units) for each line; a negative quantity counts as nothing."""
    quantity = max(quantity, 0)
    if not price.tiers:
        if price.divide_by is not None:
            pack = price.divide_by * ONE
            packs, rest = divmod(quantity, pack)
            quantity = (packs + (price.round_up and rest > 0)) * ONE
        return [(quantity, half_up(quantity * (price.unit or 0)))]
    if price.volume:
        tier = next(t for t in price.tiers if t.up_to is None or quantity <= t.up_to * ONE)
        return [(quantity, half_up(quantity * (tier.unit or 0) + (tier.flat or 0) * ONE))]
    lines, below = [], 0
    for place, tier in enumerate(price.tiers):
        # The first tier is reached by nothing at all, so its flat amount is always due (inferred).
        if place > 0 and quantity <= below:
            break
        top = quantity if tier.up_to is None else min(quantity, tier.up_to * ONE)
        inside = top - below
        lines.append((inside, half_up(inside * (tier.unit or 0) + (tier.flat or 0) * ONE)))
        below = top
        if tier.up_to is not None:
            below = tier.up_to * ONE
    return lines


def half_up(exact: int) -> int:
    """Round 10^-24 to a whole, the half away from zero; no amount here is negative."""
    whole, rest = divmod(exact, ONE * ONE)
    return whole + (2 * rest >= ONE * ONE)
