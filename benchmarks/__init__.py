"""Times every op against this machine's floor, its reference and its peers."""
