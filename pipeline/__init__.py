"""HOW a user runs it: the command line, and the pages and tables that come out."""

if __name__ == "pipeline":  # imported by its old name
    from avfuse.old_names import redirect

    redirect(__name__)
