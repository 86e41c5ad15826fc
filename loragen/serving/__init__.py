"""One process that generates adapters and answers with them, over HTTP."""
