"""Learning from single pixels: which ones, what they show, and the head on top."""
