"""May it go on? Stages, their history, checklists."""
