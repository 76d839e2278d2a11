"""The version, where no module that needs it has to import the package around it."""

__version__ = "0.2.0"
