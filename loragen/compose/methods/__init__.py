"""One module a method of composing experts."""
