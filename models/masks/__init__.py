"""How heat becomes a mask, how that is chosen, and how sure its parts are."""
