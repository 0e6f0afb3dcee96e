"""What an application's tests take from Trishake."""

from ._transport import check_transport

__all__ = ["check_transport"]
