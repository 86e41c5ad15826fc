"""Routes by whose convention they follow: our own, OpenAI's, TEI's."""
