"""Tests that start a real Label Studio and drive it by API and browser."""
