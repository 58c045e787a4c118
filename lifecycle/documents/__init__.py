"""Trusted documents: the GraphQL texts that were registered, which clients name by their digest.

What GraphQL is, and whether a text is valid, is known to `schema` alone.
"""
