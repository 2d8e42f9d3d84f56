"""Thin adapters to other libraries, each imported only when its own file is."""
