"""Frames of websockets, as uvicorn reads them, but for what it takes for a failure of its own."""

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State


class WebSockets(WebSocketsSansIOProtocol):
    """Closes a websocket on which comes what is no text, and says so to nobody else. uvicorn logs a
    trace for each, and fails where the websocket is about to be closed already."""

    def send_receive_event_to_app(self) -> None:
        """Pass on a message that is whole."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                if self.conn.state is State.OPEN:
                    self.conn.send_close(1007)
                    self.handle_parser_exception()
                return
        super().send_receive_event_to_app()
