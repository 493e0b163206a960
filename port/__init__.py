"""Port: ids, models, the API client and the action node with its rendering. Knows nothing of Faust."""
