"""Separation of duties where one person acts under several names: their own, and those of the
services whose tokens they have made."""

from lifecycle.access.origin import Origin
from lifecycle.database import WriteSession
from lifecycle.principals import repository
from lifecycle.promotion import review
from lifecycle.promotion.review import DecideApproval, MarkChecklistItem, SubmitForApproval
from lifecycle.promotion.tables import ApprovalRow, ChecklistItemRow


async def mark_item(
    session: WriteSession, origin: Origin, command: MarkChecklistItem
) -> ChecklistItemRow:
    """`review.mark_item`, in which whoever made a service's tokens counts as that service. Raises
    what it raises."""
    return await review.mark_item(session, origin, command, repository.same_people)


async def submit(session: WriteSession, origin: Origin, command: SubmitForApproval) -> ApprovalRow:
    """The same of `review.submit`."""
    return await review.submit(session, origin, command, repository.same_people)


async def decide(session: WriteSession, origin: Origin, command: DecideApproval) -> ApprovalRow:
    """`review.decide`, in which whoever made a service's tokens counts as that service. Raises what
    it raises."""
    return await review.decide(session, origin, command, repository.same_people)
