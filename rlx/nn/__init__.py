"""Networks and what training them needs, as pure functions on pytrees of arrays."""
