"""Wires the packages together: settings, schedule, urls, processes. Nobody imports it."""
