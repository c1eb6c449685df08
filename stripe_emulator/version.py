"""The API version the emulator speaks."""

API_VERSION = "2026-10-28.endive"
