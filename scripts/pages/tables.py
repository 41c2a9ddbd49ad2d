"""Tables in Markdown."""


def table_row(cells: tuple[str, ...]) -> str:
    """One row; what would end a cell is escaped."""
    escaped = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
