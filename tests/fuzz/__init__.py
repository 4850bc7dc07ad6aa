"""Hostile and damaged inputs, generated from seeds, and what every program must do with them."""
