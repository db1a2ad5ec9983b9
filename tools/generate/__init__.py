"""Generated files of this repository: `make generate` writes them, `make verify` compares them."""
