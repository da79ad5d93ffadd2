"""Packages that no registry has, in the parts that we use; put this folder on PYTHONPATH."""
