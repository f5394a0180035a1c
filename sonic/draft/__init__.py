"""The embedded engine: sound -> mouth shapes -> a warped portrait, on any CPU, with nothing downloaded."""
