"""Form encoding with brackets, as v1 reads bodies and query strings."""

from typing import Any
from urllib.parse import parse_qsl

from stripe_emulator.core.errors import malformed

Tree = dict[str, Any]


def decode(text: str) -> Tree:
    """Turn `items[0][price]=p` into `{"items": {"0": {"price": "p"}}}`.

    Brackets count whether or not they were percent-encoded. `name[]=x` numbers its values in order.
    """
    tree: Tree = {}
    for name, value in pairs(text):
        _put(tree, name, value)
    return tree


def pairs(text: str) -> list[tuple[str, str]]:
    """Return the decoded names and values in order."""
    return parse_qsl(text, keep_blank_values=True, max_num_fields=10_000)


def _put(tree: Tree, name: str, value: str) -> None:
    bracket = name.find("[")
    if bracket < 0:
        tree[name] = value
        return
    node = tree
    key = name[:bracket]
    for part in name[bracket + 1 :].removesuffix("]").split("]["):
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise malformed(
                f"Invalid request: {name} is given both a value and members.", param=key
            )
        node = child
        key = part or str(len(node))
    node[key] = value
