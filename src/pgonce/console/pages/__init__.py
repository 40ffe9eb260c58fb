"""The console's pages: a module for each noun, with its routes."""
