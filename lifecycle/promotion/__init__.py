"""May it go on? Policies, approvals, stages, their history, checklists."""
