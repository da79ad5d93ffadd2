"""All knowledge of Label Studio."""
