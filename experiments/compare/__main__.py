"""`python -m experiments.compare`."""

from experiments.compare import EXPERIMENT

if __name__ == "__main__":  # a process that measures memory imports this module, too
    EXPERIMENT.main()
