//! Calls through a real gateway, over real sockets, to instances made for the occasion.
