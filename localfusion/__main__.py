"""`python -m localfusion`: the same command as `localfusion`."""

from localfusion.cli.main import main

if __name__ == "__main__":
    main()
