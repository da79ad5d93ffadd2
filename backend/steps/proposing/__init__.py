"""From a version to proposals that annotators see: predict, rank, publish, answer clicks."""
