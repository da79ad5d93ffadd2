"""The steps of the loop: load, call the pure core, save; one file per step."""
