"""Logging and media helpers."""
