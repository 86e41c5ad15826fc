"""The strategies, a file each."""
