"""`labelclimb evaluate`: from clicks to masks on any folder of images with true masks."""
