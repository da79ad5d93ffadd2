"""What strategies read of a pool: fields that are there and sound, windows as one value a task."""
