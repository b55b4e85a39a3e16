"""`python -m annot_hf` is the command line, so that `accelerate launch -m annot_hf train RECIPE` works."""

from annot_hf.cli.app import main

if __name__ == "__main__":
    main()
