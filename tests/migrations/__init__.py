"""Migrations: the way to the tables, and what only the database can promise."""
