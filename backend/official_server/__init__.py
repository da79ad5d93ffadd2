"""The folder that `label-studio-ml start` is given."""
