"""What people call from the command line; cli.py reads the line."""
