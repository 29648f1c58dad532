"""Routing on hardware that is not here: recorded worlds, and a simulator that runs the product's own routing in them."""
