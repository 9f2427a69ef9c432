"""The one exception that an entry point shows as a paragraph instead of a traceback."""


class InputError(Exception):
    """What the user gave cannot work. The message names the value, the rule and the way out, in one paragraph."""
