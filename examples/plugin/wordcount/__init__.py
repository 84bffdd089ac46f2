"""An example of a third-party executor for Task Engine."""
