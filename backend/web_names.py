"""Names that our HTTP door and those who call it must agree on."""

SECRET_HEADER = "X-Labelclimb-Secret"  # noqa: S105 - the header's name
