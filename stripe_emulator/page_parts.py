"""The HTML the page for people is made of."""

from collections.abc import Iterable, Sequence
from html import escape

from stripe_emulator.core.moments import rfc3339

STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:84rem;padding:0
1rem;color:#1a1f36} h1{font-size:1.4rem;margin:0}h2{font-size:1rem;margin:2rem 0 .5rem}
p.note{color:#697386;margin:.2rem 0 0}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #e3e8ee;vertical-align:top}
th{font-weight:600;color:#697386;font-size:.8rem}
.wide{overflow-x:auto}td,th{white-space:nowrap}
td{max-width:30rem;overflow:hidden;text-overflow:ellipsis}
.number{text-align:right;font-variant-numeric:tabular-nums}
code{font:12px ui-monospace,monospace}
.figures{display:flex;gap:2.5rem;margin:1.2rem 0;flex-wrap:wrap}
.figures div{font-size:1.3rem;font-variant-numeric:tabular-nums}
.figures span{display:block;font-size:.8rem;color:#697386}
.bad{color:#b3093c}.empty{color:#697386}
"""


def clock_time(at: float) -> str:
    return rfc3339(at)[11:-1]


def figures(shown: Sequence[tuple[str, str, bool]]) -> str:
    cells = (
        f"<div{' class=bad' if bad else ''}>{escape(value)}<span>{escape(name)}</span></div>"
        for name, value, bad in shown
    )
    return f"<div class=figures>{''.join(cells)}</div>"


def section(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a titled table; a head that begins with # is over numbers."""
    kinds = [" class=number" if name.startswith("#") else "" for name in heads]
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{_shown(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    if not body:
        return f"<h2>{escape(title)}</h2><p class=empty>None.</p>"
    head = "".join(
        f"<th{kind}>{escape(name.removeprefix('#'))}</th>"
        for kind, name in zip(kinds, heads, strict=True)
    )
    return f"<h2>{escape(title)}</h2><div class=wide><table><tr>{head}</tr>{body}</table></div>"


def _shown(cell: str) -> str:
    """Return a cell's text; an address can be followed."""
    text = escape(cell)
    is_address = cell.startswith(("http://", "https://"))
    return f"<a href='{text}' title='{text}'>{text}</a>" if is_address else text
