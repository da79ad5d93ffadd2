"""Clicks and rectangles on one image, answered from the heat of a class; no network runs here."""
