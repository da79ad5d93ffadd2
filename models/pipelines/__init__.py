"""Image in, per-class heat map, mask and score out."""
