"""HOW a user runs it: the command line, and the pages and tables that come out."""
