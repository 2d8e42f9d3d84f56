"""Plain PyTorch definitions of every op: what all backends are tested against, and run on any device."""
