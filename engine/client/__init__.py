"""What talks to a running engine from outside: documents to send, and the typed REST client that sends them."""
