"""Upkeep of a cache: listing, verification and repair, removal, export and import."""
