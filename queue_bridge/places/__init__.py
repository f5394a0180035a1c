"""Where files are: local, on the web, in object stores."""
