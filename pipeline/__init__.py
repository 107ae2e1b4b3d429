"""The command line, and the tables, figures and pages that it writes."""

if __name__ == "pipeline":  # imported by its old name
    from avfuse.old_names import redirect

    redirect(__name__)
