"""Who runs where: demands x free devices -> assignments, as a pure function."""
