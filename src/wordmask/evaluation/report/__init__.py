"""Reports: our runs joined, the papers' tables beside them, plots and a page."""
