"""What an hour on a GPU needs: predictions before it, and one command that measures everything."""
