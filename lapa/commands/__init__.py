"""The subcommands of ``lapa``, one file each."""
