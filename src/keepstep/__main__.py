"""`python -m keepstep`: the command line."""

from keepstep.cli.main import main

if __name__ == "__main__":
    main(prog_name="keepstep")
