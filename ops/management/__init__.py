"""What operators call on the command line."""
