"""The subcommands fit, validate, test and predict: command line, run directory, loggers."""
