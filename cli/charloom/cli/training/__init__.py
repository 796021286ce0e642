"""Commands that train, measure and export; they need torch."""
