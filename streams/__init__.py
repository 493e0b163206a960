"""The Faust app, its settings, topics, records and the typed streams that carry them."""
