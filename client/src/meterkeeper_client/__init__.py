"""Report usage to Meterkeeper from a Python program: without blocking it, and without raising."""

from meterkeeper_client.client import Meterkeeper
from meterkeeper_client.problems import Problem
from meterkeeper_client.sender import Stats

__all__ = ["Meterkeeper", "Problem", "Stats"]
