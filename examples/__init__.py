"""Examples, for reading and copying. Nothing of the product imports them, and its distribution lacks them."""
