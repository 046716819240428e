"""Messages: frozen dataclasses <-> canonical bytes, with limits."""
