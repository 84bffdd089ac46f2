from tests.api.conftest import service

__all__ = ["service"]
