"""Plain PyTorch definitions of every op, for any device: all backends are tested against them."""
