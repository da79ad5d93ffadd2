"""The `labelclimb` command."""
