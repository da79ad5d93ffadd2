"""A project that runs by itself: generated surfaces and a simulated annotator."""
