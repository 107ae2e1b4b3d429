"""The papers' tables as files: what each row trains, on what, and what was published."""
