"""Networks as `flax.linen` modules, and what training them needs, as pure functions on pytrees of arrays."""
