"""How networks are trained: what from, on which crops or pixels, for how long."""
