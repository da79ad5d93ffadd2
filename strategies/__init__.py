"""Which task next: arrays in, utilities out."""
