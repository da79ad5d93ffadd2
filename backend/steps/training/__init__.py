"""From weak labels to a version that serves: train, judge, keep, watch, prune."""
