"""The processes of one machine: starting, watching, stopping, their priority and health."""
