"""What things are: data and rules. Standard library only, no I/O."""
