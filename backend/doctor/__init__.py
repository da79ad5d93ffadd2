"""`labelclimb doctor`: walk the chain from settings to served tasks, say what is broken."""
