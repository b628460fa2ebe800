"""Helpers and stand-ins that the tests share."""
