"""What a generated adapter can be expected to gain, before anyone has labels."""
