"""What ranking, difficulty and budget are made of: evidence as numbers, reasons, trials."""
