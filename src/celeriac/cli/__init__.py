"""The command line ``celeriac``: one module a group of commands.

``root`` holds the global options and finds the commands, whose modules are imported only when they run;
``session`` finds the application; ``output`` prints tables and JSON; ``options`` has the option types.
"""
