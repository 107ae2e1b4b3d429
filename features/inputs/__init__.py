"""From decoded clips to the arrays that backbones take. Imports no torch."""
