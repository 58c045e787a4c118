"""Placeholder until the client is there."""


class MlflowError(Exception): ...


class Missing(MlflowError): ...


class Client: ...
