"""Port: ids, models, the API client and the action node with its rendering. Knows nothing of Faust."""

import logging

# As in any library: where a program has set up no logging, as our commands do not, nothing is printed beside its own
# words. A worker's log has all of it.
logging.getLogger(__name__).addHandler(logging.NullHandler())
