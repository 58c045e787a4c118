"""What can be done with data sets, in the transaction of whoever speaks of them."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from lifecycle.access.origin import Origin
from lifecycle.database import WriteSession
from lifecycle.datasets import repository, rules
from lifecycle.journal import service as journal


async def of_facts(
    session: WriteSession, origin: Origin, facts: Mapping[str, Any] | None
) -> UUID | None:
    """The data set that these facts name, made if it is new; None if they name none.

    Of two that name a new one at the same time, the second waits for the first one's transaction.
    """
    wanted = rules.named(facts)
    if wanted is None:
        return None
    # One that the writer may not see is the same data set all the same.
    with session.seeing_everything():
        found = await repository.by_names(session, [wanted])
        if wanted in found:
            return found[wanted].id
        made = await repository.add(session, wanted, origin.actor)
        if made is not None:
            await journal.append(session, origin, "data_set.created", made, after=wanted._asdict())
            return made
        # Nothing removes data sets.
        return (await repository.by_names(session, [wanted]))[wanted].id
