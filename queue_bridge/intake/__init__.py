"""What is handed in: a folder, a manifest or a ZIP becomes orders."""
