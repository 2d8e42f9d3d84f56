"""What every long run does: show how far it is, stop when asked, know its own kind again."""
