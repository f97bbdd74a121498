"""The laptop world: short chains of additions and subtractions, and a small model that is wrong about some of them."""
