"""Images to arrays: networks, attribution, refinement, pipelines."""
