"""What changes the source tree for its authors; nothing of the package imports it."""
