"""Pages, diagrams, tables and pictures that know no measure."""
