"""Decisions, pure: no clock, no SQL, no HTTP."""
