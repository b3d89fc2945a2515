"""The live view: a game that is played and labelled, shown as it happens."""
