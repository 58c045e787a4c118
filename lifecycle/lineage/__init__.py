"""What came of what: one walk over all nouns. It looks on; nothing here is written."""
