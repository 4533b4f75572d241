"""Frozen networks behind one narrow interface each."""
