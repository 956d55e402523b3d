"""Text that may be shown."""


def printable(text: str) -> str:
    """Return it with what a terminal might take for a command spelt out: controls, directions."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
