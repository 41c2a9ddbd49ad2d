"""Proximal Policy Optimization on responses: pure tensor mathematics first, then the trainer that uses it."""
