"""What talks to a running engine from outside: documents, and the typed REST client that sends them."""
