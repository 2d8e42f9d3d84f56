"""Damage of every kind of file that ncfast reads, and command lines nobody means."""
