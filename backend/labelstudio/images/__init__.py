"""Images of tasks, taken as hostile: who may serve them, what is decoded, what is kept."""
