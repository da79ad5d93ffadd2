"""Stands for label-studio-ml 2.x, which lives in its git repository alone."""
