"""A claim tested over seeds: a grid of fine-tuning runs, its statistics and its report."""
