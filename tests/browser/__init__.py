"""The page as a browser has it."""
