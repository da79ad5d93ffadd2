"""`labelclimb simulate`: which strategy is worth how much human time, by replay."""
