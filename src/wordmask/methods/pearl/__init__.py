"""PEARL: keys turned towards queries, and score maps spread over the picture by text and colour."""

from wordmask.methods.pearl.method import Pearl

__all__ = ["Pearl"]
