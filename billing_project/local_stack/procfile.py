"""The Procfile: one line per process type, the same one a platform reads."""

import re
from pathlib import Path

from billing_project.local_stack.problems import CannotStartError

_LINE = re.compile(r"^(?P<name>[A-Za-z0-9_-]+):\s*(?P<command>\S.*)$")


def read_procfile(path: Path) -> dict[str, str]:
    """Read the process types and their shell lines, in the order of the file.

    Raises:
        CannotStartError: the file is missing or a line is not `name: command`.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise CannotStartError(
            f"{path} cannot be read ({error.strerror}): run from a checkout that has a Procfile."
        ) from None
    lines: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None or match["name"] in lines:
            raise CannotStartError(
                f"{path}, line {number}: write one `name: command` per line, each name once."
            )
        lines[match["name"]] = match["command"].strip()
    return lines
