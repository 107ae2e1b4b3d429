"""Figures of a run and contact sheets of clips, drawn with matplotlib."""
