"""The recurrent world model."""
