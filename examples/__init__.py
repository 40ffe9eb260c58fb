"""Example applications that use pgonce."""
