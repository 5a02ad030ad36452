"""Pictures of a state, and words for them."""
