"""Distances between embeddings in bounded memory: never a matrix of all pairs."""
