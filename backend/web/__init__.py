"""The HTTP door: ML backend protocol and management API."""
