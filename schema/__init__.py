"""GraphQL over HTTP and websockets: translation only. Business decisions are in lifecycle."""

from schema import enums as enums
