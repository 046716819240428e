"""Other systems, measured through their own functions in environments of their own."""
