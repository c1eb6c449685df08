"""All tests. The client is a distribution of its own, so its folder is put on the path here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "client" / "src"))
