"""What an embedding program uses. Import it as `engine`, which loads these names when they are first used."""
