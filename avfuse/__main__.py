"""`python -m avfuse`: the command line where the `avfuse` script is not on the path."""

from avfuse.pipeline.cli import main

if __name__ == "__main__":
    main()
