"""From what annotators do to weak labels: events taken in, learnt from, reconciled."""
